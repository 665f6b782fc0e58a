-- contextos create role
SET synchronous_commit = local;
CREATE ROLE :"role" LOGIN :options PASSWORD :'verifier';
