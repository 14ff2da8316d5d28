//go:build !race && !pulkdebug

package invariant

// Debug reports whether the dear checks are compiled in.
const Debug = false
