//go:build (linux || darwin) && !race && !pulkdebug

package arena

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Chunks are a multiple of the huge page size and aligned to it.
const (
	chunkShift    = 24 // 16 MiB
	hugePageBytes = 2 << 20
)

// mapMemory returns n bytes, aligned to a huge page, or nil when the system has
// none. REQUIRES: n is a multiple of hugePageBytes.
func mapMemory(n int) unsafe.Pointer {
	total := n + hugePageBytes
	p, err := unix.MmapPtr(-1, 0, nil, uintptr(total),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	head := int(-uintptr(p) & (hugePageBytes - 1))
	if head > 0 {
		_ = unix.MunmapPtr(p, uintptr(head))
	}
	_ = unix.MunmapPtr(unsafe.Add(p, head+n), uintptr(total-head-n))
	p = unsafe.Add(p, head)
	adviseHuge(p, n)
	return p
}

// unmapMemory gives back what mapMemory returned.
func unmapMemory(p unsafe.Pointer, n int) { _ = unix.MunmapPtr(p, uintptr(n)) }
