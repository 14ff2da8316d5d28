package workload

import (
	"errors"
	"io/fs"
	"path/filepath"
)

// DiskBytes returns what the files under dir occupy. Files may come and go
// meanwhile.
func DiskBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			var info fs.FileInfo
			if info, err = entry.Info(); err == nil {
				sum += occupied(info)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}
