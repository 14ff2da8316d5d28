package db

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkDir says why dir cannot be the directory of a store, if it cannot. What
// a directory must hold to be one, package log knows.
func checkDir(dir string, readOnly bool) error {
	if dir == "" {
		return fmt.Errorf("%w: the path is empty", ErrNotStore)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !readOnly:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: %w", ErrNotStore, err)
	case err != nil:
		return fmt.Errorf("db: open: %w", err)
	case !info.IsDir():
		return fmt.Errorf("%w: %s is a file", ErrNotStore, dir)
	}
	return nil
}
