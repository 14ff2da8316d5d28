package log

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/vfs"
)

const (
	identityName    = "STORE"
	identityTmpName = "STORE.tmp"
	lockName        = "LOCK"
	freeSuffix      = ".free"

	handlesMax   = 256
	freeFilesMax = 4
)

// A handle is an open segment file. The cache has a share of it, and so has
// each user for as long as it reads, or as it has written and not synced: an
// error of write-back is reported to the descriptors open at the time.
type handle struct {
	segment *segment
	file    vfs.File
	shares  atomic.Int64
	used    atomic.Bool // since the cache last looked
}

func (h *handle) acquire() bool {
	for {
		n := h.shares.Load()
		if n == 0 {
			return false
		}
		if h.shares.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (h *handle) release() error {
	if h.shares.Add(-1) == 0 {
		return h.file.Close()
	}
	return nil
}

// A handleCache bounds how many segment files are open: the least recently
// used go, approximately (second chance).
type handleCache struct {
	mu     sync.Mutex
	list   []*handle // Guarded by mu.
	closed bool      // Guarded by mu. Nothing is kept any more.
}

func (c *handleCache) add(h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		if h.segment.handle.CompareAndSwap(h, nil) {
			_ = h.release() // the user's share is left
		}
		return
	}
	c.list = append(c.list, h)
	for tries := 2 * len(c.list); len(c.list) > handlesMax && tries > 0; tries-- {
		old := c.list[0]
		c.list = c.list[1:]
		if old.used.Swap(false) {
			c.list = append(c.list, old)
			continue
		}
		if old.segment.handle.CompareAndSwap(old, nil) {
			_ = old.release() // what must be durable has a share until it is synced
		}
	}
}

func (c *handleCache) drop(s *segment) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := s.handle.Swap(nil)
	if h == nil {
		return nil
	}
	for i := range c.list {
		if c.list[i] == h {
			c.list = append(c.list[:i], c.list[i+1:]...)
			break
		}
	}
	return h.release()
}

func (c *handleCache) closeAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, h := range c.list {
		if h.segment.handle.CompareAndSwap(h, nil) {
			errs = append(errs, h.release())
		}
	}
	c.list, c.closed = nil, true
	return errors.Join(errs...)
}

// openSegment returns a share of the segment's file, ErrGone when it was
// recycled.
func (l *Log) openSegment(s *segment) (*handle, error) {
	if h := s.handle.Load(); h != nil && h.acquire() {
		if !h.used.Load() {
			h.used.Store(true)
		}
		return h, nil
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	if h := s.handle.Load(); h != nil && h.acquire() {
		return h, nil
	}
	if s.gone.Load() {
		return nil, ErrGone
	}
	flag := os.O_RDWR
	if l.options.ReadOnly {
		flag = os.O_RDONLY
	}
	file, err := l.fs.OpenFile(l.path(segmentName(s.base)), flag, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &CorruptError{File: segmentName(s.base), LSN: s.base, Err: err}
		}
		return nil, err
	}
	return l.addHandle(s, file), nil
}

func (l *Log) addHandle(s *segment, file vfs.File) *handle {
	h := &handle{segment: s, file: file}
	h.shares.Store(2)
	s.handle.Store(h)
	l.handles.add(h)
	return h
}

func (l *Log) path(name string) string { return filepath.Join(l.options.Dir, name) }

// createSegment makes the file of a segment and writes its header.
//
// REQUIRES: the caller holds l.writing, and l.last of the stream has its end.
func (l *Log) createSegment(st *stream, s *segment) (*handle, error) {
	name := l.path(segmentName(s.base))
	flag := os.O_RDWR | os.O_CREATE | os.O_EXCL
	if free, ok := l.files.take(); ok {
		if err := l.fs.Rename(free, name); err != nil {
			return nil, err
		}
		paths.Hit(paths.SegmentReuse)
		flag = os.O_RDWR
	}
	l.kickPreparer()
	file, err := l.fs.OpenFile(name, flag, 0o666)
	if err != nil {
		return nil, err
	}
	s.mark = LSN(st.durable.Load())
	header := segmentHeader{
		storeID:      l.storeID,
		incarnation:  s.incarnation,
		base:         s.base,
		mark:         s.mark,
		segmentBytes: l.segmentBytes,
		stream:       s.stream,
	}
	if st.last != nil {
		paths.Hit(paths.SegmentChange)
		header.prevBase, header.prevEnd = st.last.base, LSN(st.last.end.Load())
	}
	if _, err := file.WriteAt(appendSegmentHeader(nil, header), 0); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s.created = true
	st.last = s
	st.newNames = true
	return l.addHandle(s, file), nil
}

// freeFiles are segment files without contents that matter. One that was a segment
// waits until its new name is durable: if it had its next contents before that,
// a loss of power could show them, or a part, under the name of the segment.
type freeFiles struct {
	mu      sync.Mutex
	names   []string // Guarded by mu. Can be taken.
	waiting []string // Guarded by mu. Renamed since the directory was last synced.
	made    uint64   // Guarded by mu. Names given so far.
}

// renamed notes a name that is not durable yet.
func (f *freeFiles) renamed(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, name)
}

// renames returns how many names wait; synced says that the directory was synced
// after that, and lets them be taken.
func (f *freeFiles) renames() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

func (f *freeFiles) synced(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, f.waiting[:n]...)
	f.waiting = append([]string(nil), f.waiting[n:]...)
}

func (f *freeFiles) take() (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names) == 0 {
		return "", false
	}
	name := f.names[len(f.names)-1]
	f.names = f.names[:len(f.names)-1]
	return name, true
}

func (f *freeFiles) add(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.names = append(f.names, name)
}

// count returns how many files there are, ready how many of them can be taken.
func (f *freeFiles) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.names) + len(f.waiting)
}

func (f *freeFiles) ready() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.names)
}

// IdleBytes returns the bytes of files that hold nothing: those that wait to be
// reused, and those of recycled segments that wait for a later header (L2).
func (l *Log) IdleBytes() int64 {
	if l.options.Discard {
		return 0
	}
	n := int64(l.files.count())
	lock(&l.writing)
	for i := range l.streams {
		n += int64(len(l.streams[i].retired))
	}
	l.writing.Unlock()
	return n * int64(l.segmentBytes)
}

// newName returns a name for one more free file, or false when there are enough.
func (f *freeFiles) newName(l *Log) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.names)+len(f.waiting) >= freeFilesMax {
		return "", false
	}
	f.made++
	return l.path(fmt.Sprintf("%016x-%06x%s", l.incarnation, f.made, freeSuffix)), true
}

// Recycle gives up the segment that begins at base: its file is reused or
// removed, and reads of it answer ErrGone, as does a second Recycle. A segment
// that is being written or not yet durable is refused with ErrState. What the
// file system answers to a removal is returned and is not final: the segment is
// gone, its file may come back, without live bytes, at the next Open.
//
// REQUIRES (L6): nothing live is in the segment; what replaced its contents is
// durable; it ends before the replay start of every page-table snapshot that
// recovery may use, and none of them refers to it. Reads may be under way.
func (l *Log) Recycle(base LSN) error {
	if err := l.writable(); err != nil {
		return err
	}
	s := l.segmentAt(base)
	if s == nil || s.base != base || !s.linked.Load() {
		return ErrGone
	}
	st := &l.streams[s.stream]
	end := LSN(s.end.Load())
	if end == 0 || (!s.recovered && !l.options.Discard && LSN(st.durable.Load()) < end) {
		return fmt.Errorf("%w: segment %v is being written", ErrState, base)
	}
	lock(&l.writing)
	if s.gone.Load() {
		l.writing.Unlock()
		return ErrGone
	}
	l.markGone(s)
	created := s.created || s.recovered
	if created && !st.outlived(s) {
		st.retired = append(st.retired, s)
		created = false
	}
	l.writing.Unlock()
	l.metrics.recycled.Add(1)
	if !created {
		return nil
	}
	return l.freeFile(s)
}

// outlived reports whether a durable header says that the stream was durable
// behind s. Until then the file of s stays (L2): without it recovery could not
// tell a stream that lost a recycled segment from one that ended there, and
// might use its LSNs again. The header of s itself does not count, although that of
// an empty segment says as much.
//
// REQUIRES: the caller holds l.writing.
func (st *stream) outlived(s *segment) bool {
	last := st.lastDurable
	return last != nil && last.base > s.base && last.mark >= LSN(s.end.Load())
}

// markGone takes s out of the table. After it no new handle is made.
func (l *Log) markGone(s *segment) {
	s.opening.Lock()
	s.gone.Store(true)
	s.opening.Unlock()
	l.table.remove(l.number(s.base))
}

// freeFile makes a free file of the file of s, which is gone, or removes it.
func (l *Log) freeFile(s *segment) error {
	if err := l.handles.drop(s); err != nil {
		return err
	}
	old := l.path(segmentName(s.base))
	name, ok := l.files.newName(l)
	if !ok {
		return l.fs.Remove(old)
	}
	if err := l.fs.Rename(old, name); err != nil {
		return err
	}
	l.files.renamed(name)
	return nil
}

// runPreparer keeps a file of zeros ready while Options.Preallocate is set.
func (l *Log) runPreparer() {
	defer l.goroutines.Done()
	for {
		select {
		case <-l.quit:
			return
		case <-l.preparerKick:
		}
		if l.files.ready() > 0 || l.failure.Load() != nil {
			continue
		}
		name, ok := l.files.newName(l)
		if !ok {
			continue
		}
		if err := l.prepareFile(name); err != nil {
			// Not final: nothing of the log is in it. The segment is made
			// the slow way, and meets a full disk itself.
			l.options.Logger.Warn("log: preparing a segment file", "err", err)
			_ = l.fs.Remove(name)
			continue
		}
		l.files.add(name)
	}
}

func (l *Log) prepareFile(name string) error {
	file, err := l.fs.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	zeros := make([]byte, min(l.segmentBytes, 1<<20))
	for off := uint64(0); off < l.segmentBytes; off += uint64(len(zeros)) {
		n := min(uint64(len(zeros)), l.segmentBytes-off)
		if _, err = file.WriteAt(zeros[:n], int64(off)); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	return errors.Join(file.Sync(), file.Close())
}

func (l *Log) kickPreparer() {
	if l.options.Preallocate {
		kick(l.preparerKick)
	}
}

// writeIdentity replaces the STORE file.
func (l *Log) writeIdentity(id identity) error {
	tmp := l.path(identityTmpName)
	file, err := l.fs.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(appendIdentity(nil, id), 0)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := l.fs.Rename(tmp, l.path(identityName)); err != nil {
		return err
	}
	return l.fs.SyncDir(l.options.Dir)
}

func (l *Log) readIdentity() (identity, error) {
	p, err := l.readStart(identityName, identityBytes)
	if err != nil {
		return identity{}, err
	}
	id, err := decodeIdentity(p)
	if err != nil && !errors.Is(err, ErrVersion) {
		err = &CorruptError{File: identityName, Err: err}
	}
	return id, err
}

// readStart returns up to n bytes from the start of a file.
func (l *Log) readStart(name string, n int) ([]byte, error) {
	file, err := l.fs.OpenFile(l.path(name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readUpTo(file, n, 0)
}

func isFreeFile(name string) bool { return strings.HasSuffix(name, freeSuffix) }
