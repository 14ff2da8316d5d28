//go:build amd64 || arm64

package arena

import "unsafe"

// prefetchLines asks for lines cache lines of 64 bytes from p on. A prefetch of
// what is not mapped does nothing. REQUIRES: lines > 0.
//
//go:noescape
func prefetchLines(p unsafe.Pointer, lines int)
