-- How far imports of accounts have come, so that they can go on where they were broken off.

CREATE TABLE imports (
    -- SHA-256 over the file's length, its first and last megabyte, and the options that change what
    -- a row means.
    digest bytea PRIMARY KEY CHECK (length(digest) = 32),
    -- Name of the file, for people.
    file text NOT NULL,
    -- Rows of the file that are done with, good or bad. Raised in the transaction that stores them.
    rows_done bigint NOT NULL,
    -- Of these: accounts made, rows whose account was there already, rows refused.
    imported bigint NOT NULL,
    already_there bigint NOT NULL,
    refused bigint NOT NULL,
    -- Length of the file of refused rows: what follows was written by a run that stored nothing.
    error_bytes bigint NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- null = not yet.
    finished_at timestamptz
);
