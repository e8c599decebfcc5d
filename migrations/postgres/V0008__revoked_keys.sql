-- What keys are ended for in an emergency.

ALTER TABLE signing_keys
    -- When its tokens were refused at once, whatever retire_at is; null = never.
    ADD COLUMN revoked_at timestamptz;
