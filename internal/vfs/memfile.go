package vfs

import (
	"io"
	"io/fs"
	"math/rand"
	"slices"
)

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// A memNode is a file, whatever its names, or a directory. A sector of a file is
//
//	clean   what the system shows is what the medium has
//	dirty   it was written since the last sync
//	stale   its sync failed: the system shows what was written, the medium has
//	        that or something older, and no later sync will write it
//
// A stale sector becomes dirty when it is written again, and may at any read
// become clean: the system had dropped its memory, and reads the medium.
type memNode struct {
	dir   bool
	data  []byte             // what the system shows
	disk  []byte             // what the medium has
	dirty map[int64][][]byte // dirty sectors: the versions since the last sync but the current one
	stale map[int64]bool     // stale sectors
	sizes []int64            // what the size was set to since the last sync, oldest first
}

// versionsMax is how many former versions of a dirty sector are kept: the oldest
// go first. sizesMax is the same for sizes.
const (
	versionsMax = 4
	sizesMax    = 16
)

// newMemNode returns a file with these contents, durable.
func newMemNode(data []byte) *memNode {
	return &memNode{data: data, disk: slices.Clone(data), dirty: map[int64][][]byte{}, stale: map[int64]bool{}}
}

// sector returns what the system shows of a sector; the last one may be short.
func (n *memNode) sector(s int64) []byte {
	lo := min(s*sectorBytes, int64(len(n.data)))
	return n.data[lo:min(lo+sectorBytes, int64(len(n.data)))]
}

func (n *memNode) dirtySectors() []int64 {
	sectors := make([]int64, 0, len(n.dirty))
	for s := range n.dirty {
		sectors = append(sectors, s)
	}
	slices.Sort(sectors)
	return sectors
}

// touch says that the bytes from lo to hi are about to change.
func (n *memNode) touch(lo, hi int64) {
	for s := lo / sectorBytes; s*sectorBytes < hi; s++ {
		older, dirty := n.dirty[s]
		if dirty {
			older = append(older, slices.Clone(n.sector(s)))
			older = older[max(0, len(older)-versionsMax):]
		}
		n.dirty[s] = older
		delete(n.stale, s)
	}
}

func (n *memNode) resize(size int64) {
	old := int64(len(n.data))
	n.touch(min(old, size), max(old, size))
	n.setSize(size)
}

func (n *memNode) setSize(size int64) {
	if size == int64(len(n.data)) {
		return
	}
	n.data = resized(n.data, size)
	n.sizes = append(n.sizes, size)
	n.sizes = n.sizes[max(0, len(n.sizes)-sizesMax):]
}

func resized(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

func (n *memNode) write(p []byte, off int64) {
	end := off + int64(len(p))
	n.touch(off, end)
	n.setSize(max(end, int64(len(n.data))))
	copy(n.data[off:], p)
}

// sync writes what is dirty, and the size. After a failed sync a size that is
// not set again reaches the medium only as far as something is written.
func (n *memNode) sync() {
	size := int64(len(n.data))
	if len(n.sizes) == 0 {
		size = int64(len(n.disk))
		for s := range n.dirty {
			size = max(size, min((s+1)*sectorBytes, int64(len(n.data))))
		}
	}
	n.disk = resized(n.disk, size)
	for s := range n.dirty {
		if lo := s * sectorBytes; lo < size {
			copy(n.disk[lo:], n.sector(s))
		}
	}
	clear(n.dirty)
	n.sizes = nil
}

// failSync is a sync that failed as Linux has them fail: of what was dirty any
// part reached the medium, and all of it counts as clean from now on.
func (n *memNode) failSync(rnd *rand.Rand) {
	n.disk = n.afterCrash(luck{rnd: rnd})
	for s := range n.dirty {
		n.stale[s] = true
	}
	clear(n.dirty)
	n.sizes = nil
}

// reread lets the system forget some of the stale sectors between lo and hi.
func (n *memNode) reread(rnd *rand.Rand, lo, hi int64) {
	for s := lo / sectorBytes; len(n.stale) > 0 && s*sectorBytes < min(hi, int64(len(n.data))); s++ {
		if !n.stale[s] || rnd.Intn(4) != 0 {
			continue
		}
		shown := n.sector(s)
		clear(shown)
		if lo := s * sectorBytes; lo < int64(len(n.disk)) {
			copy(shown, n.disk[lo:])
		}
		delete(n.stale, s)
	}
}

type memFile struct {
	fs       *Mem
	name     string
	node     *memNode
	writable bool

	closed bool // Guarded by fs.mu.
}

func (f *memFile) check(op string, write bool) error {
	if f.closed {
		return pathError(op, f.name, fs.ErrClosed)
	}
	if write && !f.writable {
		return pathError(op, f.name, fs.ErrPermission)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("read", false); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("read", f.name, fs.ErrInvalid)
	}
	f.node.reread(f.fs.rnd, off, off+int64(len(p)))
	if off >= int64(len(f.node.data)) {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("write", true); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, pathError("write", f.name, fs.ErrInvalid)
	}
	if len(p) > 0 {
		f.node.write(p, off)
	}
	return len(p), nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("sync", false); err != nil {
		return err
	}
	f.node.sync()
	return nil
}

// FailSync is what Fault calls in place of a Sync that fails.
func (f *memFile) FailSync() {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.node.failSync(f.fs.rnd)
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("truncate", true); err != nil {
		return err
	}
	if size < 0 {
		return pathError("truncate", f.name, fs.ErrInvalid)
	}
	f.node.resize(size)
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("stat", false); err != nil {
		return 0, err
	}
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("close", false); err != nil {
		return err
	}
	f.closed = true
	return nil
}
