-- contextos drop slot
SELECT pg_drop_replication_slot(:'slot');
