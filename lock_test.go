package db_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// holdUntilKilled opens the store, says so, and holds it open.
func holdUntilKilled(dir, mode string) {
	d, err := db.Open(dir, &db.Options{ReadOnly: mode == "read"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if mode == "read" {
		fmt.Println(rows(d.Scan(nil, nil)))
	} else {
		fmt.Println("opened")
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A holder is a child that has the store open.
type holder struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// hold starts one and returns what it says once it has the store open, or not.
func hold(t *testing.T, dir, mode string) (holder, string) {
	cmd := child(t, "hold", dir, mode)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	h := holder{cmd, in}
	t.Cleanup(func() { h.kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return h, strings.TrimSpace(line)
}

// kill ends the child with SIGKILL, or whatever the system has for that.
func (h holder) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
	_ = h.in.Close()
}

func tryOpen(dir string, readOnly bool) error {
	d, err := db.Open(dir, &db.Options{ReadOnly: readOnly})
	if err != nil {
		return err
	}
	return d.Close()
}

// TestLockOfKilledWriter: who writes keeps out everybody else, until its process
// ends, however it ends.
func TestLockOfKilledWriter(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		h, said := hold(t, dir, "write")
		require.Equal(t, "opened", said)
		require.ErrorIs(t, tryOpen(dir, false), db.ErrLocked, "a second writer")
		require.ErrorIs(t, tryOpen(dir, true), db.ErrLocked, "a reader beside a writer")
		_, said = hold(t, dir, "read")
		require.Contains(t, said, "locked", "a reader of another process")
		h.kill()
		require.NoError(t, tryOpen(dir, true))
		require.NoError(t, tryOpen(dir, false))
	}
}

// TestLockOfReaders: any number of processes read at once, and keep out writers as
// long as one is left. None of them changes a file.
func TestLockOfReaders(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, nil)
	fill(t, d, "a", "b")
	require.NoError(t, d.Close())
	before := readDir(t, dir)
	var holders []holder
	for range 3 {
		h, said := hold(t, dir, "read")
		require.Equal(t, "a=A b=B", said)
		holders = append(holders, h)
	}
	require.NoError(t, tryOpen(dir, true), "a reader of this process")
	for _, h := range holders {
		require.ErrorIs(t, tryOpen(dir, false), db.ErrLocked)
		h.kill()
	}
	require.Equal(t, before, readDir(t, dir))
	require.NoError(t, tryOpen(dir, false))
}
