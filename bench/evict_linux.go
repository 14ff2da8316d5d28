package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// startEvicting empties the system's cache of all files under dir, ten times a
// second, until the function it returns is called. What is dirty stays until it
// has been written.
func startEvicting(dir string) (stop func()) {
	ended := make(chan struct{})
	var done sync.WaitGroup
	evict(dir)
	done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				evict(dir)
			}
		}
	})
	return func() { close(ended); done.Wait() }
}

func evict(dir string) {
	evictMappings(dir)
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		if f, err := os.Open(path); err == nil {
			_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
			_ = f.Close()
		}
		return nil
	})
}

// evictMappings takes mapped pages out of memory, which Fadvise leaves alone.
// MADV_PAGEOUT does no harm if something else has been mapped there meanwhile.
func evictMappings(dir string) {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		if !strings.Contains(lines.Text(), dir) {
			continue
		}
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); n == 2 {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_PAGEOUT)
		}
	}
}
