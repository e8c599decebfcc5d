-- Accounts that a letter made, and nobody came for.

ALTER TABLE users
    -- When a letter to a free address made the account; null = made otherwise, or its address was
    -- proved since. Such an account goes after some days.
    ADD COLUMN made_by_letter_at timestamptz;
CREATE INDEX users_made_by_letter ON users (made_by_letter_at) WHERE made_by_letter_at IS NOT NULL;
