"""Several models of one server tuned together: combinations simulated on shared cores, raced, and verified as one."""
