-- Ids are the texts of model::ids; times are milliseconds since the Unix epoch.

CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    secret_sha256 BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE environments (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (workspace_id, name)
) STRICT;

-- state: the wire's AppState. name: set once it is deployed.
CREATE TABLE apps (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    environment_id TEXT NOT NULL REFERENCES environments(id),
    name TEXT,
    description TEXT NOT NULL,
    state INTEGER NOT NULL,
    tags TEXT NOT NULL,
    client_version TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    deployed_at INTEGER,
    stopped_at INTEGER,
    logs_done INTEGER NOT NULL DEFAULT 0,
    idempotency_key TEXT
) STRICT;
CREATE UNIQUE INDEX apps_deployed ON apps (environment_id, name)
    WHERE name IS NOT NULL AND stopped_at IS NULL;
CREATE UNIQUE INDEX apps_once ON apps (workspace_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- What an app published under which tag. kind: 1 function, 2 class.
CREATE TABLE app_objects (
    app_id TEXT NOT NULL REFERENCES apps(id),
    kind INTEGER NOT NULL,
    tag TEXT NOT NULL,
    object_id TEXT NOT NULL,
    PRIMARY KEY (app_id, kind, tag)
) STRICT;

-- definition: the client's own encoded Function, told again to its containers. spec: JSON of
-- model::spec::FunctionSpec; null while the function is only announced.
CREATE TABLE functions (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    app_id TEXT NOT NULL REFERENCES apps(id),
    name TEXT NOT NULL,
    definition BLOB NOT NULL,
    spec TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX functions_by_name ON functions (app_id, name);

-- kind: the wire's FunctionCallType; invocation: its FunctionCallInvocationType.
CREATE TABLE calls (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    app_id TEXT NOT NULL,
    function_id TEXT NOT NULL REFERENCES functions(id),
    kind INTEGER NOT NULL,
    invocation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    input_count INTEGER NOT NULL DEFAULT 0,
    done_count INTEGER NOT NULL DEFAULT 0,
    cancelled_at INTEGER,
    idempotency_key TEXT
) STRICT;
CREATE UNIQUE INDEX calls_once ON calls (workspace_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX calls_by_age ON calls (created_at);

-- state: 0 queued, 1 running, 2 done. done_seq: order of ending inside the call, from 1.
CREATE TABLE inputs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    call_id TEXT NOT NULL REFERENCES calls(id),
    function_id TEXT NOT NULL,
    idx INTEGER NOT NULL,
    state INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    task_id TEXT,
    started_at INTEGER,
    deadline INTEGER,
    retry_count INTEGER NOT NULL DEFAULT 0,
    lost_count INTEGER NOT NULL DEFAULT 0,
    done_seq INTEGER,
    data_format INTEGER NOT NULL,
    method_name TEXT NOT NULL,
    args_blob TEXT,
    args BLOB,
    UNIQUE (call_id, idx)
) STRICT;
CREATE INDEX inputs_queued ON inputs (function_id, not_before, seq) WHERE state = 0;
CREATE INDEX inputs_running ON inputs (task_id) WHERE state = 1;
CREATE INDEX inputs_deadline ON inputs (deadline) WHERE state = 1;
CREATE UNIQUE INDEX inputs_done ON inputs (call_id, done_seq) WHERE state = 2;

CREATE TABLE outcomes (
    input_id TEXT PRIMARY KEY REFERENCES inputs(id),
    status INTEGER NOT NULL,
    task_id TEXT,
    created_at INTEGER NOT NULL,
    data_format INTEGER NOT NULL,
    exception TEXT NOT NULL,
    traceback TEXT NOT NULL,
    serialized_tb BLOB NOT NULL,
    tb_line_cache BLOB NOT NULL,
    data_blob TEXT,
    data BLOB
) STRICT;

-- Chunks that stream beside a call. direction: 1 towards the container, 2 towards the caller.
CREATE TABLE data_chunks (
    call_id TEXT NOT NULL REFERENCES calls(id),
    direction INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    data_format INTEGER NOT NULL,
    data_blob TEXT,
    data BLOB,
    PRIMARY KEY (call_id, direction, idx)
) STRICT;

-- state: 0 placed, 1 started, 2 ready, 3 draining, 4 ended. end: JSON of model::link::End.
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    app_id TEXT NOT NULL,
    function_id TEXT NOT NULL REFERENCES functions(id),
    worker_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    restricted INTEGER NOT NULL,
    single_use INTEGER NOT NULL,
    taken_count INTEGER NOT NULL DEFAULT 0,
    cpu_millis INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ready_at INTEGER,
    heartbeat_at INTEGER NOT NULL,
    ended_at INTEGER,
    ending TEXT
) STRICT;
CREATE INDEX tasks_alive ON tasks (function_id) WHERE state < 4;

-- state: 0 waiting, 1 building, 2 ready, 3 failed. key: hash of all that decides the content.
CREATE TABLE images (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    key TEXT NOT NULL,
    base_id TEXT,
    builder_version TEXT NOT NULL,
    state INTEGER NOT NULL,
    build TEXT NOT NULL,
    content TEXT,
    failure TEXT,
    created_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX images_by_key ON images (workspace_id, key) WHERE state < 3;

CREATE TABLE image_logs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id TEXT NOT NULL REFERENCES images(id),
    data BLOB NOT NULL
) STRICT;
CREATE INDEX image_logs_by_image ON image_logs (image_id, seq);

-- Files that a workspace has sent; their bytes lie in the blob store under their hash.
CREATE TABLE files (
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE mounts (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    files TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Payloads that travel over HTTP. task_id: the container that made it, else a client did.
CREATE TABLE blobs (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    task_id TEXT,
    token TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    wanted_sha256 TEXT NOT NULL,
    sha256 TEXT,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX blobs_by_task ON blobs (task_id) WHERE task_id IS NOT NULL;

CREATE TABLE logs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id TEXT NOT NULL,
    function_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    stream INTEGER NOT NULL,
    at INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX logs_by_app ON logs (app_id, seq);

CREATE TABLE secrets (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    environment_id TEXT NOT NULL REFERENCES environments(id),
    name TEXT,
    app_id TEXT,
    env TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT;
CREATE UNIQUE INDEX secrets_by_name ON secrets (environment_id, name) WHERE name IS NOT NULL;

-- Answers of calls that must not happen twice, by the client's idempotency key.
CREATE TABLE replays (
    workspace_id TEXT NOT NULL,
    key TEXT NOT NULL,
    answer BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, key)
) STRICT, WITHOUT ROWID;
