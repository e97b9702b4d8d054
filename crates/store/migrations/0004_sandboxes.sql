-- state: 0 placed, 1 started, 2 ended. spec: JSON of model::sandbox::SandboxSpec, without the
-- values of variables that came with the definition. tags: JSON, name to value. deadline: when its
-- whole life is over. wanted_end, ending: JSON of model::link::End; the first is what its end is to
-- be called once it was told to end, at told_at for the last time. tunnels: JSON, the container's
-- port to the machine's. connect_port: the machine's port for its connect tokens.
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL UNIQUE,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    environment_id TEXT NOT NULL REFERENCES environments(id),
    app_id TEXT NOT NULL REFERENCES apps(id),
    worker_id TEXT NOT NULL,
    state INTEGER NOT NULL,
    spec TEXT NOT NULL,
    name TEXT,
    tags TEXT NOT NULL,
    cpu_millis INTEGER NOT NULL,
    memory_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    deadline INTEGER NOT NULL,
    ended_at INTEGER,
    wanted_end TEXT,
    told_at INTEGER,
    ending TEXT,
    tunnels TEXT NOT NULL DEFAULT '{}',
    connect_port INTEGER
) STRICT;
CREATE UNIQUE INDEX sandboxes_by_name ON sandboxes (app_id, name)
    WHERE name IS NOT NULL AND state < 2;
CREATE INDEX sandboxes_alive ON sandboxes (deadline) WHERE state < 2;
CREATE INDEX sandboxes_by_app ON sandboxes (app_id, created_at);
CREATE INDEX sandboxes_by_environment ON sandboxes (environment_id, created_at);

-- Whoever has such a token may send HTTP requests to a port of its sandbox, while that lives.
CREATE TABLE connect_tokens (
    sha256 BLOB PRIMARY KEY,
    sandbox_id TEXT NOT NULL REFERENCES sandboxes(id),
    port INTEGER NOT NULL,
    user_metadata TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX connect_tokens_by_sandbox ON connect_tokens (sandbox_id);

-- Output of a sandbox has no function: its function_id is empty.
CREATE INDEX logs_of_sandboxes ON logs (task_id, seq) WHERE function_id = '';
