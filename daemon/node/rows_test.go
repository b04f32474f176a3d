package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"armarium/daemon/au"
	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
)

// BenchmarkRowsOf100 reads the table of a hundred collections over the API, as the page of
// collections does.
func BenchmarkRowsOf100(b *testing.B) {
	w := newWorld(b)
	m := w.add()
	props := map[string]string{}
	for i := range 100 {
		params := map[string]string{"base_url": w.press.URL + "/", "volume": fmt.Sprint("v", i)}
		for k, v := range (au.Entry{PluginID: pressID, Params: params, ID: lockss.NewAUID(pressID, params)}).Props() {
			props[k] = v
		}
	}
	dir := filepath.Join(m.disk(), "config")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, auFile), javaprops.Append(nil, nil, props), 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
	m.start()
	for b.Loop() {
		if n := len(m.table("aus?limit=200")); n != 101 {
			b.Fatalf("%d rows", n)
		}
	}
}
