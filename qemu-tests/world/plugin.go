package world

import (
	"embed"
	"io/fs"
	"regexp"
	"testing/fstest"
	"time"

	"armarium/daemon/keystore"
	"armarium/daemon/plugin"
)

// PluginID is the plugin of the world's publisher: base_url and directory.
const PluginID = "org.armarium.demo.DocumentationPlugin"

//go:embed plugin
var pluginSource embed.FS

var pluginRate = regexp.MustCompile(`<rate>[^<]*</rate>`)

// SignedPlugin packs the plugin of the world's publisher, allowed to fetch at this rate
// ("50/1s", "unlimited"), and signs it with a fresh key. trust is the keystore of a network
// that accepts it.
func SignedPlugin(rate string) (jar, trust []byte, err error) {
	src := fstest.MapFS{}
	err = fs.WalkDir(pluginSource, "plugin", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := pluginSource.ReadFile(path)
		src[path[len("plugin/"):]] = &fstest.MapFile{Data: pluginRate.ReplaceAll(b, []byte("<rate>"+rate+"</rate>"))}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if jar, err = plugin.PackJar(src, []string{PluginID}); err != nil {
		return nil, nil, err
	}
	key, err := keystore.NewKeyPair("world", keystore.Subject{Name: "World"}, keystore.ECP256, time.Now().Add(-time.Hour), 24*time.Hour)
	if err != nil {
		return nil, nil, err
	}
	if jar, err = plugin.SignJar(jar, key); err != nil {
		return nil, nil, err
	}
	return jar, keystore.EncodeTrustPEM([]keystore.Entry{{Alias: "world", Cert: key.Cert()}}), nil
}
