package db

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/pulkdb/db/internal/vfs"
)

// RestoreOptions say how to restore.
type RestoreOptions struct {
	// Options are those of the new store, as Compression and CacheSize; nil is good.
	// Those that say when writes are durable do not count.
	Options *Options

	// Progress, if not nil, is called often while RestoreWith runs, by its goroutine,
	// with the rows so far and the bytes of their keys and values. It must return soon.
	Progress func(rows, bytes int64)
}

// Restore makes a store in directory dir of what Backup wrote: a full backup, or a full
// one and the incremental ones that follow it, one behind the other (io.MultiReader, or
// cat). It reads r to its end. dir must not exist, or be empty.
//
// The store is made beside dir, in a directory with ".restoring" in its name, and
// renamed when it is complete and durable. So dir is there whole or not at all,
// whatever happens; and an error leaves nothing behind, but for a whole dir whose new
// name could not be made durable, while after a crash the other directory may be left,
// which can be removed.
//
// The store is a new one (see BackupWith), with the same content.
//
// Errors: ctx's, r's, wrapped; a *CorruptError, with the offset in r, if what was read is
// not what was written, or not all of it; ErrVersion if a later version wrote it;
// ErrBackupOrder if an incremental backup comes first, or does not follow the one before
// it; fs.ErrExist if there is something in dir, or it is no directory; what Open and
// writing return.
func Restore(ctx context.Context, dir string, r io.Reader) error {
	return RestoreWith(ctx, dir, r, RestoreOptions{})
}

// RestoreWith is Restore with options.
func RestoreWith(ctx context.Context, dir string, r io.Reader, o RestoreOptions) (err error) {
	opts := o.Options.withDefaults()
	if err := opts.validate(); err != nil {
		return err
	}
	if opts.ReadOnly || opts.InMemory {
		return fmt.Errorf("%w: a store is restored to disk", ErrInvalidOptions)
	}
	if dir == "" {
		return fmt.Errorf("%w: the path is empty", ErrNotStore)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("db: restore: %w", err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // a link stays, and the store goes where it leads
	}
	if err := vacant(dir); err != nil {
		return fmt.Errorf("db: restore: %w", err)
	}
	made, unmake, err := besides(dir)
	if err != nil {
		return err
	}
	var d *DB
	complete := false
	defer func() {
		if !complete { // also if r or Progress panics
			if d != nil {
				_ = d.Close() // once more, if it is closed
			}
			err = errors.Join(err, unmake())
		}
	}()
	opts.Durability = DurabilityNone
	if d, err = Open(made, &opts); err != nil {
		return err
	}
	x := &restore{ctx: ctx, into: d, r: newBackupReader(r), batch: d.NewBatch(), progress: o.Progress}
	if err := errors.Join(x.run(), d.Close()); err != nil {
		return err
	}
	err = install(made, dir)
	complete = err == nil
	return err
}

// vacant says why no store can be made in dir, if there is something else than an empty
// directory.
func vacant(dir string) error {
	if err := checkDir(dir, false); err != nil {
		if dir != "" && errors.Is(err, ErrNotStore) {
			err = fmt.Errorf("%w: %w", fs.ErrExist, err)
		}
		return err
	}
	names, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(names) > 0:
		return fmt.Errorf("%w: there is something in %s", fs.ErrExist, dir)
	}
	return nil
}

// besides makes an empty directory beside dir, and its parents if they are missing. unmake
// removes all that was made.
func besides(dir string) (made string, unmake func() error, err error) {
	var parents []string
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err == nil || filepath.Dir(p) == p {
			break
		}
		parents = append(parents, p)
	}
	made = fmt.Sprintf("%s.restoring-%016x", dir, rand.Uint64())
	unmake = func() error {
		err := os.RemoveAll(made)
		for _, p := range parents {
			_ = os.Remove(p) // unless somebody else uses it by now
		}
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o777); err != nil {
		return "", nil, fmt.Errorf("db: restore: %w", errors.Join(err, unmake()))
	}
	if err := os.Mkdir(made, 0o777); err != nil {
		return "", nil, fmt.Errorf("db: restore: %w", errors.Join(err, unmake()))
	}
	return made, unmake, nil
}

// install gives the directory its name.
func install(made, dir string) error {
	// It is empty, or goes on being there. Not all systems rename over a directory.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("db: restore: %w: %w", fs.ErrExist, err)
	}
	if err := os.Rename(made, dir); err != nil {
		return fmt.Errorf("db: restore: %w", err)
	}
	if err := vfs.OS.SyncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("db: restore: the name of %s is not durable: %w", dir, err)
	}
	return nil
}

// stampMax is above every stamp that a store comes to.
const stampMax = 1 << 62

// restoreBatchBytes is how much is written at a time.
const restoreBatchBytes = 256 << 10

// A restore is one under way.
type restore struct {
	ctx      context.Context
	into     *DB
	r        *backupReader
	batch    *Batch
	progress func(rows, bytes int64)

	total struct{ rows, bytes int64 }

	// Of the stream that is being read.
	rows, bytes int64
	inSpan      bool   // a frameSpan came
	hi          []byte // its end; nil is open
	last        []byte // the last key, or the bound that the next one must not be below
	exclusive   bool   // the next one must be above it
}

// run reads all streams.
func (x *restore) run() error {
	for last, first := (backupHeader{}), true; ; first = false {
		h, err := x.r.header()
		if err == io.EOF && !first {
			return nil
		}
		if err == io.EOF {
			return x.r.corrupt(errCut)
		}
		if err != nil {
			return err
		}
		if h.incremental == first || h.incremental && (h.store != last.store || h.since != last.stamp) {
			return fmt.Errorf("%w: at offset %d", ErrBackupOrder, x.r.at)
		}
		if h.stamp > stampMax {
			return x.r.corrupt(errFrame)
		}
		last = h
		x.into.tree.RaiseClock(h.stamp)
		x.rows, x.bytes, x.inSpan, x.hi, x.last, x.exclusive = 0, 0, false, nil, nil, false
		if err := x.stream(); err != nil {
			return err
		}
	}
}

// stream reads one stream behind its header.
func (x *restore) stream() error {
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		kind, p, err := x.r.frame()
		if err != nil {
			return err
		}
		ok := false
		switch kind {
		case frameSpan:
			ok, err = x.span(p)
		case frameRows:
			ok, err = x.addRows(p)
		case frameLarge:
			ok, err = x.large(p)
		case frameEnd:
			if len(p) == 16 && int64(binary.LittleEndian.Uint64(p)) == x.rows && int64(binary.LittleEndian.Uint64(p[8:])) == x.bytes {
				return x.flush()
			}
		}
		if err != nil {
			return err
		}
		if !ok {
			return x.r.corrupt(errFrame)
		}
	}
}

// span begins a range: what an earlier backup has there goes.
func (x *restore) span(p []byte) (ok bool, err error) {
	lo, hi, ok := decodeSpan(p)
	if !ok || x.inSpan && (x.hi == nil || before(lo, x.hi)) || hi != nil && !before(lo, hi) || len(lo) > MaxKeyBytes || len(hi) > MaxKeyBytes+1 {
		return false, nil
	}
	x.inSpan, x.hi = true, bytes.Clone(hi)
	x.last, x.exclusive = bytes.Clone(lo), false
	if err := x.flush(); err != nil {
		return false, err
	}
	return true, x.into.DeleteRange(lo, hi)
}

// fits reports whether the key may come next, and takes it for the last.
func (x *restore) fits(key []byte) bool {
	c := bytes.Compare(key, x.last)
	if !x.inSpan || c < 0 || c == 0 && x.exclusive || x.hi != nil && !before(key, x.hi) || len(key) > MaxKeyBytes {
		return false
	}
	x.last, x.exclusive = append(x.last[:0], key...), true
	return true
}

func (x *restore) addRows(p []byte) (ok bool, err error) {
	for len(p) > 0 {
		key, rest, ok := cutField(p)
		if !ok || !x.fits(key) {
			return false, nil
		}
		value, rest, ok := cutField(rest)
		if !ok {
			return false, nil
		}
		if err := x.batch.Set(key, value); err != nil {
			return false, err
		}
		x.count(key, int64(len(value)))
		if x.batch.Size() >= restoreBatchBytes {
			if err := x.flush(); err != nil {
				return false, err
			}
		}
		p = rest
	}
	return true, nil
}

func (x *restore) large(p []byte) (ok bool, err error) {
	if len(p) < 8 {
		return false, nil
	}
	size, key := binary.LittleEndian.Uint64(p), bytes.Clone(p[8:])
	if size > MaxValueBytes || !x.fits(key) {
		return false, nil
	}
	if err := x.flush(); err != nil {
		return false, err
	}
	parts := &partReader{x: x, left: int64(size)}
	if err := x.into.SetFrom(key, parts, int64(size)); err != nil {
		return false, err
	}
	x.count(key, int64(size))
	return true, nil
}

func (x *restore) count(key []byte, value int64) {
	x.rows++
	x.bytes += int64(len(key)) + value
	x.total.rows++
	x.total.bytes += int64(len(key)) + value
}

func (x *restore) flush() error {
	if x.batch.Len() > 0 {
		if err := x.batch.Commit(); err != nil {
			return err
		}
		x.batch.Reset()
	}
	if x.progress != nil {
		x.progress(x.total.rows, x.total.bytes)
	}
	return nil
}

// A partReader reads a value from the parts that follow.
type partReader struct {
	x    *restore
	left int64 // of the value, that no frame has had yet
	part []byte
}

func (r *partReader) Read(p []byte) (int, error) {
	if len(r.part) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		if err := r.x.ctx.Err(); err != nil {
			return 0, err
		}
		kind, part, err := r.x.r.frame()
		if err != nil {
			return 0, err
		}
		if kind != framePart || len(part) == 0 || int64(len(part)) > r.left {
			return 0, r.x.r.corrupt(errFrame)
		}
		r.part, r.left = part, r.left-int64(len(part))
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
}
