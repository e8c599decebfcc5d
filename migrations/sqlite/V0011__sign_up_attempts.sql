-- Sign-ups that wait for the proof of their address, so that whoever tries the password of one from
-- where it came is told to look for the letter. No account begins with a row of this: the password
-- of a sign-up comes to an account by the letter's link alone.
-- What SQLite keeps differently from PostgreSQL is said in V0001.

CREATE TABLE sign_up_attempts (
    -- SHA-256 of the folded address, whether or not anybody has it.
    account BLOB NOT NULL CHECK (length(account) = 32),
    -- The network of the sign-up (as in sessions.network): elsewhere nobody is told anything.
    network TEXT NOT NULL,
    -- Hash of the password that was chosen.
    password_hash TEXT NOT NULL,
    -- When the letter's link has expired.
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (account, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX sign_up_attempts_by_expiry ON sign_up_attempts (expires_at);
