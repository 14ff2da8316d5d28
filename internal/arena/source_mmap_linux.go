//go:build linux && !race && !pulkdebug

package arena

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// adviseHuge asks for huge pages. A system that has none ignores it.
func adviseHuge(p unsafe.Pointer, n int) {
	_ = unix.Madvise(unsafe.Slice((*byte)(p), n), unix.MADV_HUGEPAGE)
}

// releaseMemory gives the system the memory of n bytes, whole pages of it, which are
// zero when they are used again.
func releaseMemory(p unsafe.Pointer, n int) bool {
	return unix.Madvise(unsafe.Slice((*byte)(p), n), unix.MADV_DONTNEED) == nil
}
