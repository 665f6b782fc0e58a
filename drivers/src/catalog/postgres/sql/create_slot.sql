-- contextos create slot
SELECT pg_create_physical_replication_slot(:'slot', true);
