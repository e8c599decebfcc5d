-- Events by month, so that old ones go as whole tables, and what is known of those that went.
--
-- The rows of before are not copied: their table becomes the first partition, which takes one scan of
-- it instead of writing every row and index anew while all logins wait. It ends with the present
-- month, and goes as a whole when all of it is over. Partitions are made by the program from here on,
-- some months ahead (auth_events_2027_01 has January 2027, in UTC).

ALTER TABLE auth_events RENAME TO auth_events_before;
ALTER INDEX auth_events_pkey RENAME TO auth_events_before_pkey;
ALTER INDEX auth_events_by_user RENAME TO auth_events_before_by_user;
ALTER INDEX auth_events_by_email RENAME TO auth_events_before_by_email;
ALTER INDEX auth_events_by_kind RENAME TO auth_events_before_by_kind;
ALTER INDEX auth_events_by_xid RENAME TO auth_events_before_by_xid;
ALTER INDEX auth_events_by_actor RENAME TO auth_events_before_by_actor;

-- The columns are those of V0001.
CREATE TABLE auth_events (
    LIKE auth_events_before INCLUDING DEFAULTS,
    PRIMARY KEY (at, id)
) PARTITION BY RANGE (at);
CREATE INDEX auth_events_by_user ON auth_events (user_id, at, id) WHERE user_id IS NOT NULL;
CREATE INDEX auth_events_by_email ON auth_events (lower(email), at, id) WHERE email IS NOT NULL;
CREATE INDEX auth_events_by_kind ON auth_events (kind, at, id);
CREATE INDEX auth_events_by_xid ON auth_events (xid);
CREATE INDEX auth_events_by_actor ON auth_events (actor) WHERE actor IS NOT NULL;
-- A writer's row of numbers, read from end to end: to find gaps, and to hand events on.
CREATE INDEX auth_events_by_number ON auth_events (writer, number);

-- Whatever has no month of its own: a clock that is wrong, a month that was not made in time. No
-- event is ever refused for its time.
CREATE TABLE auth_events_default PARTITION OF auth_events DEFAULT;

-- What events.retention has removed of each writer's row of numbers: with it, and only with it, a
-- number that is not there is no gap.
CREATE TABLE event_removals (
    -- See event_writers.
    writer uuid PRIMARY KEY,
    -- How many of its events were removed.
    removed bigint NOT NULL,
    -- The highest number among them. Lower ones may still be there: numbers follow the commits, and
    -- removal follows the times.
    up_to bigint NOT NULL
);

-- Who might use the table of events may use the one that has its name now. Where the gateway's role is
-- not that of the owner, it could store no event otherwise.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT pair.source, pair.target, acl.privilege_type AS privilege,
            CASE WHEN acl.grantee = 0 THEN 'PUBLIC'
                ELSE quote_ident(pg_get_userbyid(acl.grantee)) END AS grantee,
            CASE WHEN acl.is_grantable AND acl.grantee <> 0 THEN ' WITH GRANT OPTION'
                ELSE '' END AS suffix
        FROM (VALUES
            ('auth_events_before', 'auth_events'),
            ('auth_events_before', 'auth_events_default'),
            ('event_writers', 'event_removals')
        ) AS pair (source, target)
        JOIN pg_class AS c ON c.oid = pair.source::regclass
        CROSS JOIN aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS acl
    LOOP
        EXECUTE format('GRANT %s ON %I TO %s%s',
            given.privilege, given.target, given.grantee, given.suffix);
    END LOOP;
END $$;

DO $$
DECLARE
    -- The present month in UTC, and what all earlier ones end with.
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    next timestamptz := (month + interval '1 month') AT TIME ZONE 'UTC';
    -- Bounds are written so that no DateStyle or TimeZone of a role reads them otherwise.
    bound text := 'YYYY-MM-DD "00:00:00+00"';
    old text := 'auth_events_before_' || to_char(month + interval '1 month', 'YYYY_MM');
    first int := 1;
BEGIN
    IF NOT EXISTS (SELECT FROM auth_events_before) THEN
        DROP TABLE auth_events_before;
        first := 0;
    END IF;
    FOR n IN first..2 LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF auth_events FOR VALUES FROM (%L) TO (%L)',
            'auth_events_' || to_char(month + n * interval '1 month', 'YYYY_MM'),
            to_char(month + n * interval '1 month', bound),
            to_char(month + (n + 1) * interval '1 month', bound));
    END LOOP;
    IF first = 1 THEN
        -- What is dated after the present month does not hold it up for years.
        WITH late AS (DELETE FROM auth_events_before WHERE at >= next RETURNING *)
        INSERT INTO auth_events SELECT * FROM late;
        EXECUTE format('ALTER TABLE auth_events_before RENAME TO %I', old);
        EXECUTE format('ALTER TABLE auth_events ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)',
            old, to_char(month + interval '1 month', bound));
    END IF;
END $$;
