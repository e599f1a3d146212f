-- Whether this server takes writes from us, and its time. It writes nothing, but a server that may not write (a replica, one without its
-- replicas) refuses it as it would refuse an operation.
register('probe', function(keys, args)
  return { 'time', int(now()) }
end, { 'allow-oom' })
