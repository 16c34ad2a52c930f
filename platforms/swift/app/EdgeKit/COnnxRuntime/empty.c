/* A C target needs a source; the interface is include/shim.h. */
