package android.content;

public abstract class ContentResolver {
    public abstract java.io.OutputStream openOutputStream(android.net.Uri uri) throws java.io.FileNotFoundException;
}
