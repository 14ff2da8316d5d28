package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// evictEvery is how often the system's cache is emptied: so often that what it reads
// ahead for a mapped file does not become a cache of the whole.
const evictEvery = 10 * time.Millisecond

// startEvicting has another process empty the system's cache of all files under
// dir again and again, until the function it returns is called. It is another one
// so that its work does not count as ours.
func startEvicting(dir string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	child := exec.Command(self, "-evict", dir)
	child.Stderr = os.Stderr
	hold, err := child.StdinPipe() // it ends when this is closed, also by our end
	if err != nil {
		return nil, err
	}
	begun, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err == nil {
		_, err = begun.Read(make([]byte, 1))
	}
	if err != nil {
		return nil, fmt.Errorf("emptying the system's cache: %w", err)
	}
	return func() {
		_ = hold.Close()
		_ = child.Wait()
	}, nil
}

// runEvict is that other process. It ends when its input does.
func runEvict(dir string) error {
	parent := os.Getppid()
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	tick := time.NewTicker(evictEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		if err := evict(parent, dir); err != nil {
			return err
		}
		if n == 0 {
			fmt.Println("ready")
		}
		select {
		case <-ended:
			return nil
		case <-tick.C:
		}
	}
}

// evict empties the cache once. What is dirty stays until it has been written.
func evict(pid int, dir string) error {
	if err := evictMappings(pid, dir); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
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

// evictMappings takes mapped pages of pid out of memory, which Fadvise leaves
// alone. MADV_PAGEOUT does no harm if something else is mapped there meanwhile.
func evictMappings(pid int, dir string) error {
	maps, err := os.Open("/proc/" + strconv.Itoa(pid) + "/maps")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	defer maps.Close()
	handle, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(handle)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uint64
		if !strings.Contains(lines.Text(), dir+"/") {
			continue
		}
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x", &from, &to); n != 2 {
			continue
		}
		at := [2]uint64{from, to - from} // an iovec of the other process
		_, _, code := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(handle), uintptr(unsafe.Pointer(&at)), 1, unix.MADV_PAGEOUT, 0, 0)
		if code == unix.ENOSYS || code == unix.EPERM {
			return fmt.Errorf("process_madvise: %w", code)
		}
	}
	return nil
}
