package android.os;

public abstract class PowerManager {
    public abstract int getCurrentThermalStatus();
}
