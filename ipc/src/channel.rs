//! Datagrams with descriptors between the two processes: a `SOCK_SEQPACKET` socketpair (unix(7), SCM_RIGHTS).
