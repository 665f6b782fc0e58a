-- contextos alter role
SET synchronous_commit = local;
ALTER ROLE :"role" LOGIN :options PASSWORD :'verifier';
