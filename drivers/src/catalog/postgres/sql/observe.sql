-- contextos observe
SELECT json_build_object(
  'in_recovery', pg_is_in_recovery(),
  'server_version', current_setting('server_version'),
  'pending_restart', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_settings WHERE pending_restart),
  'special', (SELECT json_object_agg(name, setting::bigint ORDER BY name) FROM pg_settings
              WHERE name IN ('max_connections', 'max_locks_per_transaction', 'max_prepared_transactions',
                             'max_wal_senders', 'max_worker_processes')),
  'databases', (SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
                WHERE NOT datistemplate AND datname <> 'postgres'),
  'roles', (SELECT coalesce(json_agg(rolname ORDER BY rolname), '[]') FROM pg_roles
            WHERE rolcanlogin AND rolname <> 'postgres'),
  'owners', (SELECT coalesce(json_agg(member.rolname ORDER BY member.rolname), '[]')
             FROM pg_auth_members JOIN pg_roles owner ON owner.oid = roleid JOIN pg_roles member ON member.oid = member
             WHERE owner.rolname = 'owner'),
  'slots', (SELECT coalesce(json_object_agg(slot_name, coalesce(wal_status, '') = 'lost' ORDER BY slot_name), '{}')
            FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name LIKE 'contextos\_%'),
  'streaming', (SELECT coalesce(json_agg(DISTINCT application_name ORDER BY application_name), '[]')
                FROM pg_stat_replication WHERE state = 'streaming'),
  'receiving', EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
  'measures', json_build_object(
    'size_bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database),
    'standbys', CASE WHEN pg_is_in_recovery() THEN '{}' ELSE
      (SELECT coalesce(json_object_agg(application_name, json_build_object(
         'lag_bytes', pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn),
         'sync', sync_state)), '{}')
       FROM pg_stat_replication WHERE state = 'streaming') END)
);
