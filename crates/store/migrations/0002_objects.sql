-- heartbeat_at: set on queues and dicts without a name, which live by their heartbeats.

CREATE TABLE queues (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    environment_id TEXT NOT NULL REFERENCES environments(id),
    name TEXT,
    created_at INTEGER NOT NULL,
    heartbeat_at INTEGER
) STRICT;
CREATE UNIQUE INDEX queues_by_name ON queues (environment_id, name) WHERE name IS NOT NULL;
CREATE INDEX queues_by_heartbeat ON queues (heartbeat_at) WHERE heartbeat_at IS NOT NULL;

-- queue_id: null once the partition has ended (cleared, expired, deleted with its queue); its
-- items then wait to be swept away. item_count, size_bytes: of items that nobody has claimed.
CREATE TABLE queue_partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id TEXT,
    key BLOB NOT NULL,
    item_count INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (queue_id, key)
) STRICT;
CREATE INDEX queue_partitions_ended ON queue_partitions (id) WHERE queue_id IS NULL;
CREATE INDEX queue_partitions_by_expiry ON queue_partitions (expires_at)
    WHERE queue_id IS NOT NULL;
CREATE INDEX queue_partitions_empty ON queue_partitions (id) WHERE item_count = 0;

-- In the order in which they were put. claim_id: 0 while nobody has taken the item.
CREATE TABLE queue_items (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    partition_id INTEGER NOT NULL,
    claim_id INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX queue_items_free ON queue_items (partition_id, seq) WHERE claim_id = 0;
CREATE INDEX queue_items_claimed ON queue_items (claim_id) WHERE claim_id > 0;

-- Apart from queue_items, so that taking and giving back an item does not move its value.
CREATE TABLE queue_values (
    seq INTEGER PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- What one call took. answer_id: the last answer that was made of it; no other settles it. run: the
-- run of the server that makes the answer. delivered_at: set once the answer has left the server;
-- the items are then kept a while for a caller that asks again with the same key.
CREATE TABLE queue_claims (
    id INTEGER PRIMARY KEY,
    workspace_id TEXT NOT NULL,
    queue_id TEXT NOT NULL,
    partition_id INTEGER NOT NULL,
    key TEXT,
    answer_id INTEGER NOT NULL UNIQUE,
    run INTEGER NOT NULL,
    delivered_at INTEGER
) STRICT;
CREATE UNIQUE INDEX queue_claims_once ON queue_claims (workspace_id, key) WHERE key IS NOT NULL;
CREATE INDEX queue_claims_open ON queue_claims (run) WHERE delivered_at IS NULL;
CREATE INDEX queue_claims_delivered ON queue_claims (delivered_at) WHERE delivered_at IS NOT NULL;
CREATE INDEX queue_claims_by_partition ON queue_claims (partition_id);

CREATE TABLE dicts (
    id TEXT PRIMARY KEY,
    workspace_id TEXT NOT NULL REFERENCES workspaces(id),
    environment_id TEXT NOT NULL REFERENCES environments(id),
    name TEXT,
    content_id INTEGER NOT NULL REFERENCES dict_contents(id),
    created_at INTEGER NOT NULL,
    heartbeat_at INTEGER
) STRICT;
CREATE UNIQUE INDEX dicts_by_name ON dicts (environment_id, name) WHERE name IS NOT NULL;
CREATE INDEX dicts_by_heartbeat ON dicts (heartbeat_at) WHERE heartbeat_at IS NOT NULL;

-- What a dict holds from one clearing to the next. ended: its entries wait to be swept away.
CREATE TABLE dict_contents (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    ended INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX dict_contents_ended ON dict_contents (id) WHERE ended = 1;

-- used_at: last written or read, within the hour.
CREATE TABLE dict_entries (
    id INTEGER PRIMARY KEY,
    content_id INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (content_id, key)
) STRICT;
CREATE INDEX dict_entries_by_use ON dict_entries (used_at);

CREATE INDEX secrets_unowned ON secrets (created_at) WHERE name IS NULL AND app_id IS NULL;
CREATE INDEX replays_by_age ON replays (created_at);
