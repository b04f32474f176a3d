package plugin

import (
	"os"
	"slices"
	"testing"
	"time"

	"armarium/daemon/lockss"
)

// TestDocumentationPlugin loads the plugin of the demonstration as a node does, from a
// signed archive, and binds it.
func TestDocumentationPlugin(t *testing.T) {
	const id = "org.armarium.demo.DocumentationPlugin"
	key := testKey(t, "ec256")
	plain, err := PackJar(os.DirFS("../../qemu-tests/world/plugin"), []string{id})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := SignJar(plain, key)
	if err != nil {
		t.Fatal(err)
	}
	j, err := OpenJar(signed, trustOf(key), JarOptions{Now: testNow, Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(j.Definitions) != 1 || len(j.Failures)+len(j.Warnings) > 0 {
		t.Fatalf("definitions %d, failures %v, warnings %v", len(j.Definitions), j.Failures, j.Warnings)
	}
	d := j.Definitions[0]
	if d.ID() != id || d.PollVersion() != "Poll_1" || len(d.Unsupported())+len(d.Warnings()) > 0 || d.MayCollect() != nil || d.MayVote() != nil {
		t.Errorf("%s %s unsupported %v warnings %v", d.ID(), d.PollVersion(), d.Unsupported(), d.Warnings())
	}
	au, err := d.Bind(map[string]string{"base_url": "http://192.0.2.1:18000/docs/", "directory": "library"})
	if err != nil {
		t.Fatal(err)
	}
	want := lockss.AUID("org|armarium|demo|DocumentationPlugin&base_url~http%3A%2F%2F192%2E0%2E2%2E1%3A18000%2Fdocs%2F&directory~library")
	if au.ID() != want {
		t.Errorf("id %s, want %s", au.ID(), want)
	}
	page := []string{"http://192.0.2.1:18000/docs/lockss-permission.html"}
	if !slices.Equal(au.StartURLs(), page) || !slices.Equal(au.PermissionURLs(), page) {
		t.Errorf("start %v, permission %v", au.StartURLs(), au.PermissionURLs())
	}
	for url, in := range map[string]bool{
		page[0]: true,
		"http://192.0.2.1:18000/docs/library/index.html":         true,
		"http://192.0.2.1:18000/docs/_static/pydoctheme.css?v=1": true,
		"http://192.0.2.1:18000/docs/_images/x.png":              true,
		"http://192.0.2.1:18000/docs/library":                    false,
		"http://192.0.2.1:18000/docs/tutorial/index.html":        false,
		"http://192.0.2.1:18000/docs/library2/index.html":        false,
		"http://192.0.2.1:18000/":                                false,
		"http://elsewhere.example/docs/library/x.html":           false,
		"http://192.0.2.1:1800/docs/library/x.html":              false,
	} {
		if au.Included(url) != in {
			t.Errorf("%s: %v, want included %v", url, au.Match(url), in)
		}
	}
	if r := au.FetchRate(); r != (lockss.Rate{Events: 50, Per: time.Second}) {
		t.Errorf("rate %+v", r)
	}
}
