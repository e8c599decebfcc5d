-- How far imports of accounts have come. The columns are explained in the PostgreSQL file.

CREATE TABLE imports (
    digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32),
    file TEXT NOT NULL,
    rows_done INTEGER NOT NULL,
    imported INTEGER NOT NULL,
    already_there INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    error_bytes INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;
