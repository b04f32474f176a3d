package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"armarium/image/diskimg"
	"armarium/image/layout"
)

// cli runs one command line.
func cli(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// must runs one command line that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := cli(t, args...)
	if code != exitOK {
		t.Fatalf("armarium %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string // in standard error
	}{
		{[]string{"--help"}, exitOK, ""},
		{[]string{"node", "crawl", "--help"}, exitOK, ""},
		{[]string{"image", "configure", "--help-answers"}, exitOK, ""},
		{nil, exitUsage, "name one"},
		{[]string{"bogus"}, exitUsage, "bogus"},
		{[]string{"plugin", "bogus"}, exitUsage, "bogus"},
		{[]string{"plugin", "pack"}, exitUsage, "ids"},
		{[]string{"plugin", "pack", "--bogus"}, exitUsage, "--bogus"},
		{[]string{"plugin", "sign", "x.jar"}, exitUsage, "--keystore"},
		{[]string{"keys", "new", "a"}, exitUsage, "--name"},
		{[]string{"node", "status", "--node", "here"}, exitUsage, "--node"},
		{[]string{"node", "crawl", "--wait"}, exitUsage, "unit"},
		{[]string{"image", "inspect", "/nonexistent"}, exitFailed, "nonexistent"},
	} {
		code, _, errs := cli(t, c.args...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("armarium %v: exit %d, %q, want %d with %q", c.args, code, errs, c.code, c.want)
		}
	}
}

// TestPlugins walks the way of a plugin: key, keystore, pack, sign, verify, inspect.
func TestPlugins(t *testing.T) {
	t.Setenv("ARMARIUM_KEYSTORE_PASSWORD", "secret1")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	const id = "org.armarium.demo.DocumentationPlugin"
	src := "../qemu-tests/world/plugin"
	for _, f := range [][2]string{{"jks", "k.keystore"}, {"pkcs12", "k.p12"}, {"pem", "k.pem"}} {
		must(t, "keys", "new", "alice-lockss", "--name", "Alice Example", "--kind", "ec256", "--format", f[0], "-o", at(f[1]), "--cert", at(f[0]+".cer"))
		must(t, "keys", "trust", at(f[0]+".cer"), "-o", at(f[0]+".trust"))
		must(t, "plugin", "pack", id, "--src", src, "-o", at(f[0]+".jar"))
		must(t, "plugin", "sign", at(f[0]+".jar"), "--keystore", at(f[1]), "-o", at(f[0]+"-signed.jar"))
		out := must(t, "plugin", "verify", at(f[0]+"-signed.jar"), "--keystore", at(f[0]+".trust"), "--strict")
		if !strings.Contains(out, "ACCEPTED") || !strings.Contains(out, id) {
			t.Errorf("verify: %s", out)
		}
	}
	if code, out, _ := cli(t, "plugin", "verify", at("jks.jar"), at("jks-signed.jar"), "--keystore", at("pem.trust")); code != exitFailed || strings.Count(out, "REFUSED") != 2 {
		t.Errorf("verify of strangers: exit %d\n%s", code, out)
	}
	if code, _, errs := cli(t, "keys", "new", "alice-lockss", "--name", "A", "-o", at("k.keystore"), "--cert", at("other.cer")); code != exitFailed || !strings.Contains(errs, "--force") {
		t.Errorf("an existing keystore is replaced: exit %d, %s", code, errs)
	}
	if fi, err := os.Stat(at("k.keystore")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("keystore: %v, %v", fi, err)
	}
	for _, file := range []string{at("jks.jar"), src + "/org/armarium/demo/DocumentationPlugin.xml"} {
		out := must(t, "plugin", "inspect", file, "--param", "base_url=http://192.0.2.1/docs/", "--param", "directory=library",
			"--url", "http://192.0.2.1/docs/library/a.html", "--url", "http://192.0.2.1/other")
		for _, want := range []string{id, "included    http://192.0.2.1/docs/library/a.html", "excluded    http://192.0.2.1/other", "org|armarium|demo|DocumentationPlugin&base_url"} {
			if !strings.Contains(out, want) {
				t.Errorf("inspect %s: no %q in\n%s", file, want, out)
			}
		}
	}
}

// genericImage builds an image with one small file.
func genericImage(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = diskimg.Build(f, diskimg.Parts{
		Manifest: layout.Manifest{Layout: layout.Version, Version: "0-test", ImageID: strings.Repeat("a5", 16), KernelRelease: "6.12"},
		Files:    []diskimg.File{{Name: "README.TXT", Data: []byte("test\n")}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImages(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	genericImage(t, at("generic.img"))
	if out := must(t, "image", "inspect", at("generic.img")); !strings.Contains(out, "not configured") {
		t.Errorf("generic: %s", out)
	}
	answers := must(t, "image", "configure", "--help-answers")
	if err := os.WriteFile(at("answers.txt"), []byte(answers), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("key"), []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := must(t, "image", "configure", at("generic.img"), "--answers", at("answers.txt"), "--key", "node.jceks="+at("key"), "-o", at("node.img"))
	_, code, ok := strings.Cut(out, "seal code ")
	if !ok || len(code) < 19 {
		t.Fatalf("no seal code in %s", out)
	}
	code = code[:19]
	seen := must(t, "image", "inspect", at("node.img"))
	for _, want := range []string{code, "lockss.library.example.edu", "settings      sealed", "node.jceks, 5 bytes", "(set)"} {
		if !strings.Contains(seen, want) {
			t.Errorf("inspect: no %q in\n%s", want, seen)
		}
	}
	if strings.Contains(seen, "pbkdf2") || strings.Contains(seen, "change this") {
		t.Errorf("inspect shows a secret:\n%s", seen)
	}
	node := func(s string) string {
		_, s, _ = strings.Cut(s, "node id       ")
		return s[:32]
	}
	must(t, "image", "configure", at("generic.img"), "--answers", at("answers.txt"), "--node-from", at("node.img"), "-o", at("node2.img"))
	if next := must(t, "image", "inspect", at("node2.img")); node(next) != node(seen) || !strings.Contains(next, "generation    2") || !strings.Contains(next, "node.jceks") {
		t.Errorf("continued node:\n%s", next)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{at("node.img"), "--answers", at("answers.txt"), "-o", at("x.img")}, "not generic"},
		{[]string{at("generic.img"), "--answers", at("answers.txt"), "-o", at("node.img")}, "--force"},
		{[]string{at("key"), "--answers", at("answers.txt"), "-o", at("x.img")}, "image"},
		{[]string{at("generic.img"), "--answers", at("key"), "-o", at("x.img")}, "line 1"},
		{[]string{at("generic.img"), "--answers", at("answers.txt"), "-o", "/dev/null", "--force"}, "ordinary"},
	} {
		if code, _, errs := cli(t, append([]string{"image", "configure"}, c.args...)...); code != exitFailed || !strings.Contains(errs, c.want) {
			t.Errorf("configure %v: exit %d, %s, want %q", c.args, code, errs, c.want)
		}
	}
	if _, err := os.Stat(at("x.img")); err == nil {
		t.Error("a failed configure leaves a file")
	}
	// Damage in the settings is found.
	b, err := os.ReadFile(at("node.img"))
	if err != nil {
		t.Fatal(err)
	}
	off := layout.Partitions()[layout.Config-1].Offset()
	b[off+600] ^= 1
	if err := os.WriteFile(at("node.img"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := cli(t, "image", "inspect", at("node.img")); code != exitFailed || !strings.Contains(errs, "one slot bad") {
		t.Errorf("damaged: exit %d, %s", code, errs)
	}
}

// aNode answers the API like a node with one unit, which is crawled in three steps.
type aNode struct {
	mu      sync.Mutex
	step    int
	crawls  int
	outcome string
	added   []string
}

const testAU = "org|example|P&base_url~http%3A%2F%2Fwww%2Eexample%2Ecom%2F"

func (n *aNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	reply := func(status int, body string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintln(w, body)
	}
	if u, p, _ := r.BasicAuth(); u != "admin" || p != "secret" {
		reply(http.StatusUnauthorized, `{"error":"wrong user or password","hint":"try again"}`)
		return
	}
	if r.Method == http.MethodPost && r.Header.Get("X-Armarium-Request") == "" {
		reply(http.StatusForbidden, `{"error":"no request header"}`)
		return
	}
	quote := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1/") {
	case "GET status":
		reply(200, `{"host":"lockss.example.edu","disks":{"name":"disks","title":"Disks","columns":[{"name":"path","title":"Path"},{"name":"free","title":"Free","type":"bytes"}],"rows":[{"path":"/cache0","free":1610612736}]},"evil":"a\u001b[2J"}`)
	case "GET aus":
		reply(200, `{"name":"aus","columns":[{"name":"name","title":"Name"},{"name":"agreement","title":"Agreement","type":"percent"}],"rows":[{"au":`+quote(testAU)+`,"name":"Journal Volume 7","agreement":0.985}]}`)
	case "GET aus/" + testAU:
		reply(200, `{"au":`+quote(testAU)+`,"urls":12}`)
	case "GET titles":
		reply(200, `{"name":"titles","columns":[],"rows":[{"key":"T8","name":"Journal Volume 8"}]}`)
	case "POST aus":
		var body map[string]any
		json.NewDecoder(r.Body).Decode(&body)
		n.added = append(n.added, fmt.Sprint(body))
		reply(201, `{"au":"new"}`)
	case "POST aus/" + testAU + "/crawl":
		n.step = 1
		n.crawls++
		reply(202, `{}`)
	case "GET crawls":
		rows := []string{`{"id":1,"au":` + quote(testAU) + `,"running":false,"ok":false,"status":"Fetch error","started":"2026-01-01T00:00:00Z"}`}
		switch {
		case n.step >= 1 && n.step < 3:
			rows = append([]string{fmt.Sprintf(`{"id":0,"au":%s,"running":true,"fetched":%d,"queued":4,"bytes":2048,"errors":0}`, quote(testAU), n.step*3)}, rows...)
			n.step++
		case n.step == 3:
			rows = append([]string{`{"id":2,"au":` + quote(testAU) + `,"running":false,` + n.outcome + `,"fetched":10,"bytes":4096,"started":"2026-01-02T00:00:00Z","ended":"2026-01-02T00:01:00Z"}`}, rows...)
		}
		reply(200, `{"name":"crawls","columns":[{"name":"status","title":"Status"}],"rows":[`+strings.Join(rows, ",")+`]}`)
	default:
		reply(http.StatusNotFound, `{"error":"not found"}`)
	}
}

func TestNode(t *testing.T) {
	n := &aNode{outcome: `"ok":true,"status":"Successful"`}
	srv := httptest.NewServer(n)
	defer srv.Close()
	t.Setenv("ARMARIUM_PASSWORD", "secret")
	node := func(args ...string) []string {
		return append([]string{"node"}, append(args, "--node", srv.URL)...)
	}
	out := must(t, node("status")...)
	for _, want := range []string{"lockss.example.edu", "/cache0", "1.5 GiB"} {
		if !strings.Contains(out, want) {
			t.Errorf("status: no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("a control character reaches the terminal")
	}
	if out := must(t, node("au")...); !strings.Contains(out, "98.5 %") {
		t.Errorf("au: %s", out)
	}
	if out := must(t, node("au", "volume 7")...); !strings.Contains(out, "12") {
		t.Errorf("au by name: %s", out)
	}
	if out := must(t, node("au", "--json")...); !json.Valid([]byte(out)) {
		t.Errorf("--json: %s", out)
	}
	must(t, node("au", "add", "Journal Volume 8")...)
	must(t, node("au", "add", "--plugin", "org.example.P", "--param", "year=2020")...)
	if want := []string{"map[title:T8]", "map[params:map[year:2020] plugin:org.example.P]"}; fmt.Sprint(n.added) != fmt.Sprint(want) {
		t.Errorf("added %v, want %v", n.added, want)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{node("au", "no such"), "no unit"},
		{node("au", "add", "no such"), "no title"},
		{node("peers"), "not found"},
		{node("status", "--user", "eve"), "try again"},
	} {
		if code, _, errs := cli(t, c.args...); code != exitFailed || !strings.Contains(errs, c.want) {
			t.Errorf("%v: exit %d, %s, want %q", c.args, code, errs, c.want)
		}
	}
}

// TestWatch follows a crawl to its end, good and bad.
func TestWatch(t *testing.T) {
	t.Setenv("ARMARIUM_PASSWORD", "secret")
	for _, c := range []struct {
		outcome string
		fails   bool
		want    string
	}{
		{`"ok":true,"status":"Successful"`, false, "crawl ended: Successful; 10 fetched"},
		{`"ok":false,"status":"Fetch error"`, true, "Fetch error"},
	} {
		n := &aNode{outcome: c.outcome}
		srv := httptest.NewServer(n)
		o := &nodeOptions{url: srv.URL, user: "admin"}
		cmd := crawlCommand(o)
		var out, errs bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&errs)
		cmd.SetContext(context.Background())
		err := o.start(cmd, crawlTask(), testAU, true, 1)
		srv.Close()
		text := out.String()
		if err != nil {
			text = err.Error()
		}
		if (err != nil) != c.fails || !strings.Contains(text, c.want) {
			t.Errorf("%s: %v, %q, want %q", c.outcome, err, text, c.want)
		}
		for _, want := range []string{"3 of 7 or more URLs", "6 of 10 or more URLs", "2.0 KiB"} {
			if !strings.Contains(errs.String(), want) {
				t.Errorf("progress: no %q in\n%s", want, errs.String())
			}
		}
	}
}
