-- contextos read role
SELECT coalesce((SELECT json_build_object(
  'verifier', coalesce(rolpassword, ''),
  'is_member', EXISTS (SELECT FROM pg_auth_members JOIN pg_roles owner ON owner.oid = roleid
                       WHERE owner.rolname = :'owner' AND member = pg_authid.oid))
  FROM pg_authid WHERE rolname = :'role'), 'null');
