-- Accounts and sessions: invitations, a change of address, and how a session was proved.

ALTER TABLE users
    -- Kind and cost of a stored hash that new hashes do not have, such as bcrypt/12; null = made
    -- here at the present cost, or none. While any is left, refused logins take as long as the
    -- slowest of them.
    ADD COLUMN password_class text,
    -- When an administrator invited the owner of the address.
    ADD COLUMN invited_at timestamptz,
    -- The address that the user wants instead, not yet proved, and its folded form. Not unique: who
    -- proves it first has it.
    ADD COLUMN new_email text,
    ADD COLUMN new_email_key text COLLATE "C",
    -- When that was asked for.
    ADD COLUMN new_email_at timestamptz,
    -- Which of the two addresses has agreed, or need not: current or new; null = neither yet.
    ADD COLUMN new_email_agreed text CHECK (new_email_agreed IN ('current', 'new')),
    ADD CONSTRAINT users_new_email CHECK (
        (new_email IS NULL) = (new_email_key IS NULL)
        AND (new_email IS NULL) = (new_email_at IS NULL)
        AND (new_email IS NOT NULL OR new_email_agreed IS NULL));
CREATE INDEX users_by_password_class ON users (password_class) WHERE password_class IS NOT NULL;

ALTER TABLE sessions
    -- Proofs given, newest first: [{"method": "otp", "timestamp": 1767225600}, ...], in Unix
    -- seconds. Empty: the password, at created_at.
    ADD COLUMN methods jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(methods) = 'array'),
    -- Network of `address` (IPv4: /24, IPv6: /48): where a known device comes from.
    ADD COLUMN network cidr;
CREATE INDEX sessions_by_network ON sessions (user_id, network, created_at)
    WHERE network IS NOT NULL;
