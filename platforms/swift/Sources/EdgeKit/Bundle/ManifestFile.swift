/// `manifest.json`: the structures of `Manifest` as JSON with a digest, checked when read.
///
/// The digest is a checksum. It tells accidents, and no attack: anyone can compute it anew.
package enum ManifestFile {
    /// SHA-256 of a manifest's canonical form with its own `digest` left empty.
    package static func digest(_ document: JSON.Object) -> String {
        var document = document
        document["digest"] = .string("")
        return sha256(JSON.object(document).canonical)
    }

    /// Read and check a manifest.
    ///
    /// - Throws: `EdgeKitError.bundle`: not JSON, written by a newer edgekit, not valid, or changed after it was written.
    package static func decode(_ data: [UInt8], origin: String) throws -> Manifest {
        let document = try read(data, origin)
        let found: Manifest
        do {
            found = try Manifest.read(.object(document), "")
        } catch let error as Invalid {
            throw EdgeKitError.bundle(.invalid, "\(origin): the manifest is not valid (\(error)); convert the model again")
        }
        if found.digest != digest(document) {
            let shown = found.digest.isEmpty ? "empty" : String(found.digest.prefix(12))
            throw EdgeKitError.bundle(
                .badDigest,
                "\(origin): the manifest was changed after it was written (digest \(shown) does not fit); restore the original or convert the model again")
        }
        return found
    }

    private static func read(_ data: [UInt8], _ origin: String) throws -> JSON.Object {
        let document: JSON.Object
        let version: Int
        do {
            guard case .object(let object) = try JSON(parsing: data) else { throw Invalid("Expected `object`", "") }
            guard let schema = object["schema"] else { throw Invalid("Object missing required field `schema`", "") }
            document = object
            version = try Read.int(schema, ".schema")
        } catch let error as any Error & CustomStringConvertible {
            throw EdgeKitError.bundle(.notJSON, "\(origin): not a readable manifest (\(error.description)); convert the model again")
        }
        if !(1...Manifest.schema).contains(version) {
            throw EdgeKitError.bundle(
                .newerSchema, "\(origin): manifest schema \(version), this EdgeKit reads up to \(Manifest.schema); update the package")
        }
        return document
    }
}
