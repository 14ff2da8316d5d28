package crashtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pulkdb/db/internal/vfs"
)

var update = flag.Bool("update", false, "write the golden files of package crashtest's callers anew")

// A Trace notes the file operations that matter for what survives: those that
// change something, locks, and no reads. It is compared with a golden file, so
// that a change of the durability protocol is a diff that somebody reviews.
type Trace struct {
	mu   sync.Mutex
	text strings.Builder // Guarded by mu.
	last string          // Guarded by mu.
}

// Section begins a part of the text.
func (tr *Trace) Section(name string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	fmt.Fprintf(&tr.text, "\n# %s\n", name)
	tr.last = ""
}

// Note is for vfs.NewFault. Writes that follow each other in one file are noted
// once, and their sizes not at all: formats may change.
func (tr *Trace) Note(op vfs.Op) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	line := fmt.Sprintf("%v %s", op.Kind, op.Name)
	switch {
	case op.Kind == vfs.OpOpen && op.Changes():
		line = "create " + op.Name
		if op.Flag&os.O_TRUNC != 0 {
			line += ", cut to nothing"
		}
	case op.Kind == vfs.OpRename:
		line = op.String()
	case op.Kind == vfs.OpWrite && op.Offset == 0:
		line = fmt.Sprintf("write %s from the start", op.Name)
		if tr.last == "write "+op.Name {
			line = tr.last
		}
	case !op.Changes() && op.Kind != vfs.OpLock:
		return nil
	}
	if line != tr.last || op.Kind != vfs.OpWrite {
		tr.text.WriteString(line + "\n")
	}
	tr.last = line
	return nil
}

// Golden compares the text with testdata/name, or writes that with -update.
func (tr *Trace) Golden(t testing.TB, name string) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	path := filepath.Join("testdata", name)
	got := strings.TrimLeft(tr.text.String(), "\n")
	if *update {
		if err := os.MkdirAll("testdata", 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if wanted := strings.ReplaceAll(string(want), "\r\n", "\n"); got != wanted {
		t.Errorf("the file operations are not those of %s; if they should change, run the test with -update and review the diff. They are:\n%s", path, got)
	}
}
