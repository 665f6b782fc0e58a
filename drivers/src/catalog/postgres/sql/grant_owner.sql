-- contextos grant owner
SET synchronous_commit = local;
GRANT :"owner" TO :"role";
