-- Images that a function's run makes. function_id: whose run; call_id: the call that makes it now.
ALTER TABLE images ADD COLUMN function_id TEXT;
ALTER TABLE images ADD COLUMN call_id TEXT;
-- When its build ended, in whichever way.
ALTER TABLE images ADD COLUMN finished_at INTEGER;
ALTER TABLE image_logs ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
CREATE INDEX images_by_function ON images (function_id) WHERE function_id IS NOT NULL;
CREATE INDEX images_by_base ON images (base_id) WHERE base_id IS NOT NULL;

-- Names of images, each with every image that had it: the newest has it now.
CREATE TABLE image_names (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    revision_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    environment_id TEXT NOT NULL REFERENCES environments(id),
    name TEXT NOT NULL,
    image_id TEXT NOT NULL REFERENCES images(id),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX image_names_by_name ON image_names (environment_id, name, seq);
CREATE INDEX image_names_by_image ON image_names (image_id);
