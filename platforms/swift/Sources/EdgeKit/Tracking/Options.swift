/// What every tracker can be told.
public struct TrackerOptions: Sendable, Hashable {
    public enum Boxes: String, Sendable, CaseIterable { case filter, detection }

    /// Seconds that a track lives on unseen; found again within it, it keeps its id.
    public var lostSeconds = 1.0
    /// Seconds that a new track must be seen, without a miss, before it is believed and gets an id.
    public var confirmSeconds = 1.0 / 30
    /// Match a track only with detections of its class.
    public var classAware = false
    /// Observations that `trajectory` remembers of each track.
    public var trajectoryPoints = 128
    /// The box of a track in sight: where the `filter` takes it to be, which is steadier and nearer the truth than a single
    /// detection; or the `detection`'s own.
    public var boxes = Boxes.filter

    public init() {}

    init(confirmSeconds: Double) { self.confirmSeconds = confirmSeconds }
}

/// Options of one kind of tracker, by the names of manifests and of Python.
package protocol NamedOptions: Sendable {
    init()
    var common: TrackerOptions { get set }
    /// Numbers by name, and how far each may go.
    static var numbers: [(name: String, path: WritableKeyPath<Self, Double>, most: Double)] { get }
    /// Other words that are allowed, as `camera_motion: off`.
    static var words: [String: String] { get }
}

extension NamedOptions {
    package static var words: [String: String] { [:] }

    private static var every: [(name: String, path: WritableKeyPath<Self, Double>, most: Double)] {
        [
            ("lost_seconds", \Self.common.lostSeconds, .infinity), ("confirm_seconds", \Self.common.confirmSeconds, .infinity),
        ] + numbers
    }

    /// Throws `EdgeKitError.usage`: an unknown name, or a value that is out of range or of another type.
    package init(named given: [String: OptionValue]) throws {
        self.init()
        for (name, value) in given.sorted(by: { $0.key < $1.key }) {
            switch (name, value) {
            case ("class_aware", .bool(let flag)): common.classAware = flag
            case ("boxes", .word(let word)):
                guard let boxes = TrackerOptions.Boxes(rawValue: word) else {
                    throw EdgeKitError.usage("option boxes: \(choices(word, TrackerOptions.Boxes.allCases.map(\.rawValue)))")
                }
                common.boxes = boxes
            case ("trajectory_points", .number(let number)):
                guard let points = Int(exactly: number) else { throw EdgeKitError.usage("option \(name)=\(number): expected a whole number") }
                common.trajectoryPoints = points
            case (_, .word(let word)) where Self.words[name] != nil:
                if word != Self.words[name] { throw EdgeKitError.usage("option \(name): \(choices(word, [Self.words[name]!]))") }
            case (_, .number(let number)) where Self.every.contains { $0.name == name }:
                self[keyPath: Self.every.first { $0.name == name }!.path] = number
            default:
                let valid = Self.every.map(\.name) + ["class_aware", "trajectory_points", "boxes"] + Self.words.keys
                if !valid.contains(name) { throw EdgeKitError.usage("option \(choices(name, valid))") }
                throw EdgeKitError.usage("option \(name)=\(value): expected a value of another type")
            }
        }
        try check()
    }

    /// Throws `EdgeKitError.usage`: a value out of range.
    package func check() throws {
        for (name, path, most) in Self.every {
            let value = self[keyPath: path]
            if !value.isFinite { throw EdgeKitError.usage("option \(name)=\(value): expected a finite number") }
            if value < 0 { throw EdgeKitError.usage("option \(name)=\(value): expected at least 0") }
            if value > most { throw EdgeKitError.usage("option \(name)=\(value): expected at most \(most)") }
        }
        if !(2...100_000).contains(common.trajectoryPoints) {
            throw EdgeKitError.usage("option trajectory_points=\(common.trajectoryPoints): expected 2..100000")
        }
    }
}
