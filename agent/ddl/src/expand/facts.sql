-- What an expansion has to know of tables: all that hangs on their columns. Two placeholders, with a colon: an array of names,
-- and the role that carries schema changes out.
SELECT pg_catalog.json_build_object(
'server_version', pg_catalog.current_setting('server_version_num')::int,
'may_create', pg_catalog.has_database_privilege(:role, pg_catalog.current_database(), 'CREATE'),
'schemas', (SELECT pg_catalog.json_agg(n.nspname ORDER BY n.nspname) FROM pg_catalog.pg_namespace n),
'tables', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
  'written', w.written,
  'schema', n.nspname,
  'name', c.relname,
  'kind', c.relkind,
  'owned', pg_catalog.pg_has_role(:role, c.relowner, 'USAGE'),
  'related', c.relispartition OR EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent)),
  'row_security', c.relrowsecurity,
  'forced_row_security', c.relforcerowsecurity,
  'keyed', EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
  'publications', coalesce((SELECT pg_catalog.json_agg(p.pubname ORDER BY p.pubname) FROM pg_catalog.pg_publication_tables p
    WHERE p.schemaname = n.nspname AND p.tablename = c.relname), '[]'),
  'grants', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('to', coalesce(pg_catalog.quote_ident(r.rolname), 'PUBLIC'),
      'privilege', x.privilege_type, 'grantable', x.is_grantable) ORDER BY r.rolname, x.privilege_type)
    FROM pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee), '[]'),
  'columns', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'number', a.attnum, 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
      'not_null', a.attnotnull, 'identity', a.attidentity, 'generated', a.attgenerated <> '',
      'default', CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END,
      'comment', pg_catalog.col_description(c.oid, a.attnum), 'statistics', a.attstattarget,
      'sequence', (SELECT pg_catalog.format('%I.%I', sn.nspname, s.relname) FROM pg_catalog.pg_depend o
        JOIN pg_catalog.pg_class s ON s.oid = o.objid AND s.relkind = 'S' JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
        WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.refclassid = o.classid AND o.refobjid = c.oid
        AND o.refobjsubid = a.attnum AND o.deptype IN ('a', 'i') LIMIT 1),
      'sequence_options', (SELECT pg_catalog.format('INCREMENT BY %s CACHE %s%s', q.seqincrement, q.seqcache,
          CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END) FROM pg_catalog.pg_depend o
        JOIN pg_catalog.pg_sequence q ON q.seqrelid = o.objid WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND o.refclassid = o.classid AND o.refobjid = c.oid AND o.refobjsubid = a.attnum AND o.deptype = 'i'),
      'grants', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('to', coalesce(pg_catalog.quote_ident(r.rolname), 'PUBLIC'),
          'privilege', x.privilege_type, 'grantable', x.is_grantable) ORDER BY r.rolname, x.privilege_type)
        FROM pg_catalog.aclexplode(a.attacl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee), '[]')
    ) ORDER BY a.attnum) FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
  'indexes', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', ic.relname, 'unique', i.indisunique, 'primary', i.indisprimary, 'exclusion', i.indisexclusion,
      'valid', i.indisvalid, 'replica_identity', i.indisreplident, 'constraint', k.conname,
      'deferrable', coalesce(k.condeferrable, false), 'deferred', coalesce(k.condeferred, false),
      'definition', substr(def.text, position(' USING ' IN def.text) + 1),
      'columns', (SELECT pg_catalog.json_agg(DISTINCT used.number) FROM (
        SELECT key.number FROM pg_catalog.unnest(i.indkey::int2[]) key(number) WHERE key.number > 0
        UNION SELECT o.refobjsubid FROM pg_catalog.pg_depend o WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND o.objid = i.indexrelid AND o.refobjid = c.oid AND o.refobjsubid > 0) used)
    ) ORDER BY ic.relname) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = c.oid AND k.contype IN ('p', 'u', 'x')
    CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_indexdef(i.indexrelid) AS text) def WHERE i.indrelid = c.oid), '[]'),
  'constraints', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', k.conname, 'kind', k.contype, 'definition', pg_catalog.pg_get_constraintdef(k.oid), 'columns', k.conkey,
      'validated', k.convalidated,
      'parent', (SELECT pg_catalog.format('%I.%I', pn.nspname, p.relname) FROM pg_catalog.pg_class p
        JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace WHERE p.oid = k.confrelid)
    ) ORDER BY k.conname) FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('c', 'f')), '[]'),
  'referenced_by', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'table', k.conrelid::pg_catalog.regclass::text, 'constraint', k.conname, 'columns', k.confkey) ORDER BY k.conname)
    FROM pg_catalog.pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f'), '[]'),
  'dependents', coalesce((SELECT pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_object(
      'column', o.refobjsubid, 'what', pg_catalog.pg_describe_object(o.classid, o.objid, o.objsubid),
      'view_schema', vn.nspname, 'view', v.relname))
    FROM pg_catalog.pg_depend o
    LEFT JOIN pg_catalog.pg_rewrite r ON o.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = o.objid
    LEFT JOIN pg_catalog.pg_class v ON v.oid = r.ev_class LEFT JOIN pg_catalog.pg_namespace vn ON vn.oid = v.relnamespace
    LEFT JOIN pg_catalog.pg_attrdef d ON o.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.oid = o.objid
    WHERE o.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.refobjid = c.oid AND o.refobjsubid > 0
    AND (o.classid IN ('pg_catalog.pg_rewrite'::pg_catalog.regclass, 'pg_catalog.pg_policy'::pg_catalog.regclass,
        'pg_catalog.pg_trigger'::pg_catalog.regclass, 'pg_catalog.pg_proc'::pg_catalog.regclass,
        'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, 'pg_catalog.pg_publication_rel'::pg_catalog.regclass)
      OR d.oid IS NOT NULL AND (d.adrelid <> c.oid OR d.adnum <> o.refobjsubid))), '[]'),
  'triggers', coalesce((SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', t.tgname, 'source', p.prosrc,
      'at_any_update', t.tgtype & 16 <> 0 AND t.tgattr::int2[] = '{}') ORDER BY t.tgname)
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'), '[]')
) ORDER BY w.written)
FROM pg_catalog.unnest(:tables) w(written)
JOIN pg_catalog.pg_class c ON c.oid = coalesce(pg_catalog.to_regclass(w.written), pg_catalog.to_regclass('public.' || w.written))
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace), '[]'))::text
