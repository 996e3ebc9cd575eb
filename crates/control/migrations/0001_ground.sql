-- Times are milliseconds since 1970 (UTC) unless a column's name says otherwise.
-- A tenant's rows hang from its organization: org -> app -> everything else.

CREATE TABLE orgs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    slug       TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- AUTOINCREMENT: the number of a private network is part of addresses and is never used twice.
CREATE TABLE networks (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id INTEGER NOT NULL REFERENCES orgs (id),
    name   TEXT    NOT NULL,
    UNIQUE (org_id, name)
) STRICT;

-- An app's name stays with the organization that first took it, even after the app is destroyed: whatever still bears
-- the name (bookmarks, caches, clients of the old app) never reaches another tenant.
CREATE TABLE app_names (
    name   TEXT    PRIMARY KEY,
    org_id INTEGER NOT NULL REFERENCES orgs (id)
) STRICT;

CREATE TABLE apps (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id          INTEGER NOT NULL REFERENCES orgs (id),
    network_id      INTEGER NOT NULL REFERENCES networks (id),
    name            TEXT    NOT NULL UNIQUE,
    current_release INTEGER REFERENCES releases (id),
    secrets_version INTEGER NOT NULL DEFAULT 0,
    destroying      INTEGER NOT NULL DEFAULT 0,
    created_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX apps_of_org ON apps (org_id);

-- Scope: an app if app_id is set, else an organization if org_id is set, else the platform (an administrator).
CREATE TABLE tokens (
    id         TEXT    PRIMARY KEY,
    org_id     INTEGER REFERENCES orgs (id),
    app_id     INTEGER REFERENCES apps (id) ON DELETE CASCADE,
    hash       BLOB    NOT NULL,
    name       TEXT    NOT NULL,
    shown      INTEGER NOT NULL,
    expires_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX tokens_of_app ON tokens (app_id);

-- A secret's value holds from version `since` of the app's secrets until, but not in, version `until`.
-- The secrets of one version are therefore one query, and a release pins them by number.
CREATE TABLE secrets (
    app_id     INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    since      INTEGER NOT NULL,
    until      INTEGER,
    sealed     BLOB    NOT NULL,
    digest     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, name, since)
) STRICT;

CREATE TABLE releases (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id          INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    version         INTEGER NOT NULL,
    status          TEXT    NOT NULL,
    image           TEXT    NOT NULL,
    digest          TEXT    NOT NULL,
    config          TEXT    NOT NULL,
    definition      TEXT    NOT NULL,
    secrets_version INTEGER NOT NULL,
    description     TEXT    NOT NULL,
    user            TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    reason          TEXT,
    UNIQUE (app_id, version)
) STRICT;

-- Wanted numbers of machines that a user has asked for; a group without a row has what it has, or one.
CREATE TABLE group_counts (
    app_id INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    name   TEXT    NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (app_id, name)
) STRICT;

-- The durable workflow. `cursor` is the number of steps done; while undoing, the number still to undo.
CREATE TABLE deployments (
    id         TEXT    PRIMARY KEY,
    app_id     INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    release_id INTEGER NOT NULL REFERENCES releases (id) ON DELETE CASCADE,
    counts     TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    plan       TEXT    NOT NULL,
    steps      TEXT    NOT NULL,
    cursor     INTEGER NOT NULL,
    failure    TEXT,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;
CREATE INDEX deployments_of_app ON deployments (app_id, id);
CREATE INDEX deployments_under_way ON deployments (status) WHERE ended_at IS NULL;
CREATE INDEX deployments_of_release ON deployments (release_id);

CREATE TABLE deployment_events (
    deployment_id TEXT    NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    timestamp     INTEGER NOT NULL,
    message       TEXT    NOT NULL,
    machine       TEXT,
    status        TEXT    NOT NULL,
    PRIMARY KEY (deployment_id, number)
) STRICT;

CREATE TABLE idempotency_keys (
    app_id        INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    key           TEXT    NOT NULL,
    deployment_id TEXT    NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
    PRIMARY KEY (app_id, key)
) STRICT;
CREATE INDEX idempotency_keys_of_deployment ON idempotency_keys (deployment_id);

-- What is wanted of each machine: the spec that its node was or will be given, or that it be gone.
CREATE TABLE machines (
    id           TEXT    PRIMARY KEY,
    app_id       INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    digest       TEXT    NOT NULL,
    spec         TEXT    NOT NULL,
    launch       TEXT    NOT NULL,
    gone         INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    destroyed_at INTEGER
) STRICT;
CREATE INDEX machines_of_app ON machines (app_id);

-- Specs by version, so that a deployment that is undone gives a machine back exactly what it had.
CREATE TABLE machine_versions (
    machine_id TEXT    NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    version    TEXT    NOT NULL,
    spec       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (machine_id, version)
) STRICT;

-- While a lease holds, only its holder changes the machine. `deployment_id` is set where a deployment is the holder;
-- such a lease has no end of its own.
CREATE TABLE leases (
    machine_id    TEXT    PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
    nonce         TEXT    NOT NULL,
    owner         TEXT    NOT NULL,
    description   TEXT    NOT NULL,
    version       TEXT    NOT NULL,
    expires_at    INTEGER NOT NULL,
    deployment_id TEXT    REFERENCES deployments (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX leases_of_deployment ON leases (deployment_id);
