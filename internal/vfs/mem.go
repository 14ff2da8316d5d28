package vfs

import (
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// A Mem is a file system in memory that knows what would survive a power loss.
//
// Of each file it keeps the current contents and those last synced; of the
// directories the current names, the durable ones, and the changes in between,
// in order. Directories themselves are durable once made.
type Mem struct {
	mu      sync.Mutex
	names   map[string]*memNode // Guarded by mu. Current.
	durable map[string]*memNode // Guarded by mu. After the last SyncDir.
	pending []nameOp            // Guarded by mu. Between the two, oldest first.
	dirs    map[string]bool     // Guarded by mu.
	locks   map[string]int      // Guarded by mu. -1: exclusive; else how many share.
}

// A memNode is a file, whatever its names.
type memNode struct {
	data   []byte
	synced []byte
	dirty  map[int64]bool // sectors written since Sync
}

// A nameOp is one change of a directory: node nil removes name. A rename is one
// change with from set, so that it survives whole or not at all.
type nameOp struct {
	name string
	from string
	node *memNode
}

func (op nameOp) applyTo(names map[string]*memNode) {
	if op.from != "" && names[op.from] == op.node {
		delete(names, op.from)
	}
	if op.node == nil {
		delete(names, op.name)
	} else {
		names[op.name] = op.node
	}
}

// NewMem returns an empty file system with a root and a working directory.
func NewMem() *Mem {
	return &Mem{
		names:   map[string]*memNode{},
		durable: map[string]*memNode{},
		dirs:    map[string]bool{".": true, string(filepath.Separator): true},
		locks:   map[string]int{},
	}
}

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

func (m *Mem) OpenFile(name string, flag int, _ os.FileMode) (File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[name]
	switch {
	case m.dirs[name]:
		return nil, pathError("open", name, fs.ErrInvalid)
	case node != nil && flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, pathError("open", name, fs.ErrExist)
	case node == nil && (flag&os.O_CREATE == 0 || !m.dirs[filepath.Dir(name)]):
		return nil, pathError("open", name, fs.ErrNotExist)
	case node == nil:
		node = &memNode{dirty: map[int64]bool{}}
		m.change(nameOp{name: name, node: node})
	}
	if flag&os.O_TRUNC != 0 {
		node.resize(0)
	}
	return &memFile{fs: m, name: name, node: node, writable: flag&(os.O_WRONLY|os.O_RDWR) != 0}, nil
}

func (m *Mem) change(op nameOp) {
	op.applyTo(m.names)
	m.pending = append(m.pending, op)
}

func (m *Mem) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		if len(m.list(name)) > 0 {
			return pathError("remove", name, fs.ErrExist)
		}
		delete(m.dirs, name)
		return nil
	}
	if m.names[name] == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	m.change(nameOp{name: name})
	return nil
}

func (m *Mem) Rename(oldName, newName string) error {
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[oldName]
	if node == nil || !m.dirs[filepath.Dir(newName)] {
		return pathError("rename", oldName, fs.ErrNotExist)
	}
	if oldName != newName {
		m.change(nameOp{name: newName, from: oldName, node: node})
	}
	return nil
}

func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for dir = filepath.Clean(dir); !m.dirs[dir]; dir = filepath.Dir(dir) {
		if m.names[dir] != nil {
			return pathError("mkdir", dir, fs.ErrExist)
		}
		m.dirs[dir] = true
	}
	return nil
}

func (m *Mem) ReadDir(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return nil, pathError("readdir", dir, fs.ErrNotExist)
	}
	return m.list(dir), nil
}

func (m *Mem) list(dir string) []string {
	var names []string
	for name := range m.names {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	for name := range m.dirs {
		if name != dir && filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names
}

func (m *Mem) Stat(name string) (int64, bool, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		return 0, true, nil
	}
	if node := m.names[name]; node != nil {
		return int64(len(node.data)), false, nil
	}
	return 0, false, pathError("stat", name, fs.ErrNotExist)
}

func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return pathError("syncdir", dir, fs.ErrNotExist)
	}
	m.pending = slices.DeleteFunc(m.pending, func(op nameOp) bool {
		if filepath.Dir(op.name) != dir {
			return false
		}
		op.applyTo(m.durable)
		return true
	})
	return nil
}

func (m *Mem) Lock(name string, shared bool) (io.Closer, error) {
	name = filepath.Clean(name)
	flag := os.O_RDWR | os.O_CREATE
	if shared {
		flag = os.O_RDONLY
	}
	if _, err := m.OpenFile(name, flag, 0); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.locks[name]
	if held < 0 || (held > 0 && !shared) {
		return nil, ErrLocked
	}
	if shared {
		m.locks[name] = held + 1
	} else {
		m.locks[name] = -1
	}
	return &memLock{fs: m, name: name, shared: shared}, nil
}

type memLock struct {
	fs     *Mem
	name   string
	shared bool
	once   sync.Once
}

func (l *memLock) Close() error {
	l.once.Do(func() {
		l.fs.mu.Lock()
		defer l.fs.mu.Unlock()
		if l.shared {
			l.fs.locks[l.name]--
		} else {
			l.fs.locks[l.name] = 0
		}
	})
	return nil
}

// CrashClone returns the file system as it may be found after a power loss now:
// all that was synced, and a random choice, fixed by seed, of what was not. With
// seed 0 nothing unsynced survives. Locks are gone; m itself is unchanged.
//
// Of unsynced names any subset survives, in their order. Of an unsynced file
// any subset of its sectors and either size: where the size survives and a
// sector does not, that sector has its synced contents, or zeros.
func (m *Mem) CrashClone(seed int64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	rnd := rand.New(rand.NewSource(seed))
	survives := func() bool { return false }
	if seed != 0 {
		odds := []float64{0.1, 0.5, 0.9, 1}[rnd.Intn(4)]
		survives = func() bool { return rnd.Float64() < odds }
	}
	names := map[string]*memNode{}
	for name, node := range m.durable {
		names[name] = node
	}
	for _, op := range m.pending {
		if survives() {
			op.applyTo(names)
		}
	}
	clone := NewMem()
	for dir := range m.dirs {
		clone.dirs[dir] = true
	}
	nodes := map[*memNode]*memNode{}
	sorted := make([]string, 0, len(names))
	for name := range names {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		node := names[name]
		if nodes[node] == nil {
			data := node.afterCrash(survives)
			nodes[node] = &memNode{data: data, synced: slices.Clone(data), dirty: map[int64]bool{}}
		}
		clone.names[name], clone.durable[name] = nodes[node], nodes[node]
	}
	return clone
}

func (n *memNode) afterCrash(survives func() bool) []byte {
	data := slices.Clone(n.synced)
	if len(n.data) != len(data) && survives() {
		data = resized(data, int64(len(n.data)))
	}
	sectors := make([]int64, 0, len(n.dirty))
	for s := range n.dirty {
		sectors = append(sectors, s)
	}
	slices.Sort(sectors)
	for _, s := range sectors {
		lo := s * sectorBytes
		if !survives() || lo >= int64(len(n.data)) {
			continue
		}
		// A sector behind the size is lost with it: the file ends before it.
		hi := min(lo+sectorBytes, int64(len(n.data)), int64(len(data)))
		if lo < hi {
			copy(data[lo:hi], n.data[lo:hi])
		}
	}
	return data
}

func (n *memNode) resize(size int64) {
	old := int64(len(n.data))
	n.data = resized(n.data, size)
	for s := min(old, size) / sectorBytes; s <= max(old, size)/sectorBytes; s++ {
		n.dirty[s] = true
	}
}

func resized(data []byte, size int64) []byte {
	if size <= int64(len(data)) {
		return data[:size:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
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
	if len(p) == 0 {
		return 0, nil
	}
	end := off + int64(len(p))
	if end > int64(len(f.node.data)) {
		f.node.data = resized(f.node.data, end)
	}
	copy(f.node.data[off:], p)
	for s := off / sectorBytes; s <= (end-1)/sectorBytes; s++ {
		f.node.dirty[s] = true
	}
	return len(p), nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("sync", false); err != nil {
		return err
	}
	// Only what is dirty is copied, so that syncing a large file often is cheap.
	n := f.node
	if len(n.synced) != len(n.data) {
		n.synced = resized(n.synced, int64(len(n.data)))
	}
	for s := range n.dirty {
		if lo := s * sectorBytes; lo < int64(len(n.data)) {
			hi := min(lo+sectorBytes, int64(len(n.data)))
			copy(n.synced[lo:hi], n.data[lo:hi])
		}
	}
	clear(n.dirty)
	return nil
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

// Corrupt flips one bit of the byte at off of a file, synced contents included:
// what a failing disk does. It reports whether there was such a byte.
func (m *Mem) Corrupt(name string, off int64, bit uint8) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.names[filepath.Clean(name)]
	if node == nil || off >= int64(len(node.data)) {
		return false
	}
	node.data[off] ^= 1 << (bit % 8)
	if off < int64(len(node.synced)) {
		node.synced[off] ^= 1 << (bit % 8)
	}
	return true
}

// String lists names and sizes, for a failing test.
func (m *Mem) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	names := make([]string, 0, len(m.names))
	for name := range m.names {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		b.WriteString(name + "\n")
	}
	return b.String()
}
