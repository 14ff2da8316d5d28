package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pulkdb/db/internal/vfs"
)

const (
	suffix     = ".snap"
	tempSuffix = ".snap.tmp" // being written, or left over
)

// An Info is one snapshot file of a directory.
type Info struct {
	Sequence uint64
	Name     string // with the directory
	Bytes    int64
}

func fileName(dir string, sequence uint64, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", sequence, suffix))
}

// parseName returns the sequence of a file name with this suffix.
func parseName(name, suffix string) (sequence uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 16 || strings.ToLower(digits) != digits {
		return 0, false
	}
	sequence, err := strconv.ParseUint(digits, 16, 64)
	return sequence, err == nil
}

// List returns the snapshot files of dir, newest first, without looking into
// them. A directory that does not exist has none.
func List(fsys vfs.FS, dir string) ([]Info, error) {
	names, err := readDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	var infos []Info
	for i := len(names) - 1; i >= 0; i-- { // names sort as sequences do
		sequence, ok := parseName(names[i], suffix)
		if !ok {
			continue
		}
		name := fileName(dir, sequence, suffix)
		size, _, err := fsys.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("snapshot: list: %w", err)
		}
		infos = append(infos, Info{sequence, name, size})
	}
	return infos, nil
}

func readDir(fsys vfs.FS, dir string) ([]string, error) {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: list: %w", err)
	}
	return names, nil
}

// RemoveOthers removes all snapshot files but those with a sequence in keep, and
// what unfinished ones have left. It does not make the removals durable: what
// comes back after a crash is removed next time.
//
// REQUIRES: the newest one was committed, no Writer is at work, and nothing
// needs the others: no kept one builds on them, and a log segment they refer to
// may go only after them.
func RemoveOthers(fsys vfs.FS, dir string, keep []uint64) error {
	names, err := readDir(fsys, dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if sequence, ok := parseName(name, suffix); ok && !slices.Contains(keep, sequence) {
			errs = append(errs, fsys.Remove(fileName(dir, sequence, suffix)))
		}
		if sequence, ok := parseName(name, tempSuffix); ok {
			errs = append(errs, fsys.Remove(fileName(dir, sequence, tempSuffix)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("snapshot: remove others: %w", err)
	}
	return nil
}
