-- The versions of a schema that there are, and when each was last written by.
SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
  'version', v.version, 'state', v.state, 'expansion', v.expansion,
  'begun_unix', extract(epoch FROM v.begun)::bigint, 'changed_unix', extract(epoch FROM v.changed)::bigint,
  'old_written_unix', pg_catalog.pg_sequence_last_value(pg_catalog.to_regclass(pg_catalog.quote_ident(v.version) || '.pgctl_old_use')),
  'new_written_unix', pg_catalog.pg_sequence_last_value(pg_catalog.to_regclass(pg_catalog.quote_ident(v.version) || '.pgctl_new_use'))
) ORDER BY v.begun), '[]')::text
FROM pgctl.versions v
