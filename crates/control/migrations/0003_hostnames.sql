-- Host names that apps bring along. Several apps may want one; one of them at most has proven that it is its own.
CREATE TABLE hostnames (
    id                 INTEGER PRIMARY KEY,
    app_id             INTEGER NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    hostname           TEXT    NOT NULL,
    -- Certificates are ordered for it.
    acme               INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    proven_at          INTEGER,
    -- What DNS said last, and whether it led here.
    seen               TEXT,
    checked_at         INTEGER,
    reaches_edge       INTEGER NOT NULL DEFAULT 0,
    -- When the keeper looks at it again, and how often in a row it was in vain.
    next_at            INTEGER NOT NULL,
    failures           INTEGER NOT NULL DEFAULT 0,
    -- What went wrong last, and before when its issuer is not asked again, whoever is in a hurry.
    failure            TEXT,
    no_order_before    INTEGER,
    UNIQUE (app_id, hostname)
) STRICT;
CREATE UNIQUE INDEX hostnames_owner ON hostnames (hostname) WHERE proven_at IS NOT NULL;
CREATE INDEX hostnames_next ON hostnames (next_at);

-- Their certificates. The private key is sealed for the host name.
CREATE TABLE certificates (
    hostname_id INTEGER NOT NULL REFERENCES hostnames (id) ON DELETE CASCADE,
    source      TEXT    NOT NULL CHECK (source IN ('custom', 'acme')),
    chain_pem   TEXT    NOT NULL,
    sealed_key  BLOB    NOT NULL,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    issuer      TEXT    NOT NULL,
    key_kind    TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    -- When another one is ordered, for one that was.
    renew_at    INTEGER,
    PRIMARY KEY (hostname_id, source)
) STRICT;
