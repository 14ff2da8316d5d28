package tree

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/paths"
)

// TestMain fails a full run, where paths are counted, in which a structural path
// of the tree was never taken.
func TestMain(m *testing.M) {
	code := m.Run()
	full := flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.fuzz").Value.String() == ""
	if code == 0 && full && invariant.Debug {
		counts := paths.Counts()
		for _, p := range []paths.Path{
			paths.SplitLeaf, paths.SplitInner, paths.SplitMany, paths.RootGrowth, paths.FinishSplit,
			paths.BlindUpdate, paths.BatchCommit,
		} {
			if counts[p.String()] == 0 {
				fmt.Printf("path %v was never taken\n", p)
				code = 1
			}
		}
	}
	os.Exit(code)
}
