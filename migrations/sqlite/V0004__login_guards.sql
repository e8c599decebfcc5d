-- Failed logins: how long the next one has to wait.
-- What SQLite keeps differently from PostgreSQL is said in V0001.

CREATE TABLE login_guards (
    -- SHA-256 of the folded address that was tried, whether or not anybody has it.
    account BLOB NOT NULL CHECK (length(account) = 32),
    -- A network in which the account is known (as in sessions.network), or `*` for all others.
    lane TEXT NOT NULL,
    -- Failures since the last success in this lane, or since a quiet day.
    failures INTEGER NOT NULL,
    -- The last of them.
    failed_at INTEGER NOT NULL,
    -- No try before this time.
    blocked_until INTEGER NOT NULL,
    PRIMARY KEY (account, lane)
) STRICT, WITHOUT ROWID;
CREATE INDEX login_guards_by_age ON login_guards (failed_at);
