-- Apps whose visitors are told to come back later.
CREATE TABLE maintenance (
    app_id        INTEGER PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    since         INTEGER NOT NULL,
    message       TEXT    NOT NULL,
    retry_after_s INTEGER NOT NULL
) STRICT;
