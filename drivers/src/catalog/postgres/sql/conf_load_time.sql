-- contextos read conf_load_time
SELECT to_json(pg_conf_load_time());
