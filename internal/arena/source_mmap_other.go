//go:build darwin && !race && !pulkdebug

package arena

import "unsafe"

func adviseHuge(unsafe.Pointer, int) {}

// releaseMemory does nothing: what madvise gives back here the system may leave where it is.
func releaseMemory(unsafe.Pointer, int) bool { return false }
