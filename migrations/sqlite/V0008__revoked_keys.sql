-- What keys are ended for in an emergency.

ALTER TABLE signing_keys ADD COLUMN revoked_at INTEGER;
