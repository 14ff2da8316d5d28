//go:build unix

package workload

import (
	"io/fs"
	"syscall"
)

// occupied returns the bytes that a file takes on disk.
func occupied(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int64(s.Blocks) * 512
	}
	return info.Size()
}
