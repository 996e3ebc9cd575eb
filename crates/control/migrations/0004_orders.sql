-- First orders of certificates (not renewals) of the last hours. They outlive their host names, so that whoever removes
-- a name and adds it again has not ordered less.
CREATE TABLE orders (
    id       INTEGER PRIMARY KEY,
    org_id   INTEGER NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    hostname TEXT    NOT NULL,
    at       INTEGER NOT NULL
) STRICT;
CREATE INDEX orders_of_org ON orders (org_id, at);
CREATE INDEX orders_of_name ON orders (hostname, at);
